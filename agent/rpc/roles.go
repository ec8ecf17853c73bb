package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Role is what a caller may do; each includes the ones before it.
type Role uint8

// The roles.
const (
	Nobody   Role = iota
	Viewer        // looks
	Operator      // changes desired state and ends flows
	Admin         // speaks as a controller
)

// String returns the role's name in lower case.
func (r Role) String() string {
	if int(r) >= len(roleNames) {
		return fmt.Sprintf("role(%d)", uint8(r))
	}
	return roleNames[r]
}

var roleNames = [...]string{"nobody", "viewer", "operator", "admin"}

// needs returns the least role for a method and whether the method is known. One
// that is not listed is refused to everybody.
func needs(method string) (Role, bool) {
	switch method {
	case pb.AgentService_List_FullMethodName, pb.AgentService_Watch_FullMethodName,
		pb.AgentService_Explain_FullMethodName,
		pb.AgentService_ListFlows_FullMethodName, pb.AgentService_WatchFlows_FullMethodName,
		pb.AgentService_ListDrops_FullMethodName, pb.AgentService_WatchDrops_FullMethodName,
		pb.AgentService_GetStatus_FullMethodName:
		return Viewer, true
	case pb.AgentService_Apply_FullMethodName, pb.AgentService_Attach_FullMethodName, pb.AgentService_Detach_FullMethodName,
		pb.AgentService_DeleteFlows_FullMethodName:
		return Operator, true
	case pb.AgentService_Sync_FullMethodName:
		return Admin, true
	}
	if strings.HasPrefix(method, "/grpc.health.v1.") || strings.HasPrefix(method, "/grpc.reflection.") {
		return Viewer, true
	}
	return Nobody, false
}

// changes reports whether a method is written to the audit log.
func changes(method string) bool {
	r, _ := needs(method)
	return r > Viewer
}

// caller is who made a connection. It is the connection's AuthInfo.
type caller struct {
	credentials.CommonAuthInfo
	name string
	role Role
}

// AuthType implements credentials.AuthInfo.
func (caller) AuthType() string { return "vrouter" }

// guard stands before every call: role, panic, audit.
type guard struct{ log *slog.Logger }

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (answer any, err error) {
	who, err := g.allow(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer g.finish(who, info.FullMethod, time.Now(), &err)
	return handler(ctx, req)
}

func (g guard) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	who, err := g.allow(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer g.finish(who, info.FullMethod, time.Now(), &err)
	return handler(srv, stream)
}

// allow says whether the caller may call the method.
func (g guard) allow(ctx context.Context, method string) (caller, error) {
	var who caller
	if p, ok := peer.FromContext(ctx); ok {
		who, _ = p.AuthInfo.(caller)
	}
	role, known := needs(method)
	if !known || who.role < role {
		g.log.Warn("call refused", "method", method, "caller", who.name, "role", who.role.String())
		return who, status.Errorf(codes.PermissionDenied, "%s needs the role %s and %s has %s; see roles in the configuration", method, role, who.name, who.role)
	}
	return who, nil
}

// finish ends a call: a panic costs the caller an error and not the daemon its
// life, and a change is written down with who made it.
func (g guard) finish(who caller, method string, start time.Time, err *error) {
	if v := recover(); v != nil {
		g.log.Error("call panicked", "method", method, "caller", who.name, "panic", v, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "the call failed inside the daemon; its log says where")
	}
	if changes(method) {
		g.log.Info("audit", "method", method, "caller", who.name, "role", who.role.String(),
			"code", status.Code(*err).String(), "duration", time.Since(start))
	}
}
