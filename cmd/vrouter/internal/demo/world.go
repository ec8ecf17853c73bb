package demo

import (
	"context"
	_ "embed" // the demo's state file
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

//go:embed state.yaml
var stateFile string

// prefix begins the name of every namespace of the demo; the process number
// follows, so that several demos can run and the left-overs of a crashed one are
// known.
const prefix = "vrdemo"

// world is the demo's surroundings: namespaces, servers, and a client of the
// daemon.
type world struct {
	name     string // prefix and process number
	names    []string
	client   host
	backends []*backend
	api      *client.Client
}

// namespace returns the name of one of the demo's namespaces.
func (w *world) namespace(role string) string { return w.name + "-" + role }

// roles are the demo's namespaces.
var roles = []string{"client", "node", "web-1", "web-2", "web-3"}

// newWorld makes the namespaces. Left-overs of demos that died are removed
// first.
func newWorld() (*world, error) {
	if _, err := netns.Cleanup(prefix); err != nil {
		return nil, err
	}
	w := &world{name: fmt.Sprintf("%s%d", prefix, os.Getpid()), names: roles[2:]}
	w.client = host{w.namespace("client")}
	for _, role := range roles {
		if _, err := netns.Create(w.namespace(role)); err != nil {
			return nil, errors.Join(err, w.close())
		}
	}
	return w, nil
}

// serve starts the backends, once their interfaces are there.
func (w *world) serve() error {
	for _, name := range w.names {
		b, err := startBackend(w.namespace(name), name)
		if err != nil {
			return err
		}
		w.backends = append(w.backends, b)
	}
	return nil
}

// close stops the servers and removes the namespaces.
func (w *world) close() error {
	var errs []error
	for _, b := range w.backends {
		b.close()
	}
	w.backends = nil
	if w.api != nil {
		errs = append(errs, w.api.Close())
		w.api = nil
	}
	for _, role := range roles {
		errs = append(errs, netns.Delete(w.namespace(role)))
	}
	return errors.Join(errs...)
}

// state returns the demo's state file for this world's namespaces.
func (w *world) state() string { return strings.ReplaceAll(stateFile, "@P@", w.name) }

// applyState hands the whole state file to the daemon.
func (w *world) applyState(ctx context.Context) (int, error) {
	documents, err := statefile.Parse([]statefile.Source{{Name: "demo.yaml", Data: []byte(w.state())}}, nil)
	if err != nil {
		return 0, err
	}
	var resources []*pb.Resource
	for _, d := range documents {
		resources = append(resources, d.Resource)
	}
	return len(resources), w.apply(ctx, resources...)
}

// removeState takes everything back, so that the daemon removes its devices.
func (w *world) removeState(ctx context.Context) error {
	resources, _, err := w.api.List(ctx, &pb.ListRequest{})
	if err != nil {
		return err
	}
	var keys []*pb.ResourceKey
	for _, r := range resources {
		keys = append(keys, &pb.ResourceKey{Kind: statefile.Kind(r), Name: r.GetName()})
	}
	_, err = w.api.Apply(ctx, &pb.ApplyRequest{Deletes: keys})
	return err
}

// apply changes resources in one transaction.
func (w *world) apply(ctx context.Context, resources ...*pb.Resource) error {
	_, err := w.api.Apply(ctx, &pb.ApplyRequest{Upserts: resources})
	return err
}

// resource returns a resource as the daemon has it.
func (w *world) resource(ctx context.Context, kind, name string) (*pb.Resource, error) {
	list, _, err := w.api.List(ctx, &pb.ListRequest{Kinds: []string{kind}, Names: []string{name}})
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("%s %s: %d found", kind, name, len(list))
	}
	return list[0], nil
}

// cloneRule copies a rule so that it can be changed.
func cloneRule(r *pb.NetworkPolicyRule) *pb.NetworkPolicyRule {
	return proto.Clone(r).(*pb.NetworkPolicyRule)
}

// drops returns a drop counter; 0 where nothing was dropped.
func (w *world) drops(ctx context.Context, itf, reason string) (uint64, error) {
	answer, err := w.api.ListDrops(ctx, &pb.ListDropsRequest{Interface: itf, Reason: reason})
	if err != nil {
		return 0, err
	}
	var n uint64
	for _, d := range answer.GetDrops() {
		n += d.GetPackets()
	}
	return n, nil
}

// memberOf returns the member that the client's live session to a port of the
// service web has.
func (w *world) memberOf(ctx context.Context, port uint32) (string, error) {
	filter := &pb.FlowFilter{FloatingIp: "web", DestinationPort: port, State: "ESTABLISHED"}
	var newest *pb.Flow
	for flow, err := range w.api.ListFlows(ctx, &pb.ListFlowsRequest{Filter: filter}) {
		if err != nil {
			return "", err
		}
		if newest == nil || flow.GetAge().AsDuration() < newest.GetAge().AsDuration() {
			newest = flow
		}
	}
	if newest == nil {
		return "", errors.New("the transfer has no session")
	}
	return newest.GetMember(), nil
}

func explain(ctx context.Context, w *world) (string, []string, error) {
	answer, err := w.api.Explain(ctx, &pb.ExplainRequest{
		VirtualMachineInterface: "client-1", Destination: "10.96.0.10", Protocol: pb.Protocol_TCP, DestinationPort: 80,
	})
	if err != nil {
		return "", nil, err
	}
	if answer.GetVerdict() != pb.Verdict_FORWARD {
		return "", nil, fmt.Errorf("verdict %s, reason %s", answer.GetVerdict(), answer.GetReason())
	}
	var detail []string
	for _, s := range answer.GetSteps() {
		detail = append(detail, strings.TrimRight(fmt.Sprintf("%-16s %s  %s", s.GetStage(), s.GetResult(), s.GetDetail()), " "))
	}
	return fmt.Sprintf("%s out of %s by rule %s", answer.GetVerdict(), answer.GetOutput(), answer.GetRule()), detail, nil
}

func account(ctx context.Context, w *world) (string, []string, error) {
	var t *pb.PacketTotals
	balanced, err := eventually(ctx, func() (bool, error) { // packets move between two readings
		status, err := w.api.Status(ctx)
		t = status.GetTotals()
		return t.GetReceived()+t.GetGenerated() == t.GetTransmitted()+t.GetCoalesced()+t.GetDropped()+t.GetHeld(), err
	})
	if err != nil {
		return "", nil, err
	}
	sum := fmt.Sprintf("%d + %d = %d + %d + %d + %d", t.GetReceived(), t.GetGenerated(), t.GetTransmitted(), t.GetCoalesced(), t.GetDropped(), t.GetHeld())
	if !balanced {
		return "", nil, errors.New("does not hold: " + sum)
	}
	if unknown, err := w.drops(ctx, "", "UNKNOWN"); err != nil || unknown != 0 {
		return "", nil, errors.Join(err, fmt.Errorf("%d packets dropped for an unknown reason", unknown))
	}
	return sum + "; none for an unknown reason", nil, nil
}

// patience is how long eventually waits.
const patience = 10 * time.Second

// eventually asks until the answer is yes or patience ends.
func eventually(ctx context.Context, ask func() (bool, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return ok, err
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-tick.C:
		}
	}
}
