package agent

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// errFenced says that a newer leader has taken over.
var errFenced = errors.New("a controller with the same id and an equal or newer election has taken over; this one is fenced: stop, or connect with a higher electionId")

type syncStream = grpc.BidiStreamingServer[pb.SyncRequest, pb.SyncResponse]

// syncer is one open Sync stream.
type syncer struct {
	agent    *Agent
	stream   syncStream
	id       string
	election uint64
	session  *session

	synced   bool           // a snapshot has been applied on this stream
	snapshot *snapshotInput // the one that is being received
	sequence uint64         // the last one
}

// snapshotInput is a snapshot between its begin and its end.
type snapshotInput struct {
	allowEmpty bool
	resources  []*pb.Resource
	drafts     []state.Draft // of the resources
}

// Sync implements pb.AgentServiceServer.
func (s *Service) Sync(stream syncStream) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a Sync stream is hello")
	}
	if err := check(first); err != nil {
		return err
	}
	y := &syncer{agent: s.agent, stream: stream, id: hello.GetControllerId(), election: hello.GetElectionId()}
	welcome, err := y.connect()
	if err != nil {
		return rpcError(err)
	}
	defer y.disconnect()
	if err := stream.Send(&pb.SyncResponse{Message: &pb.SyncResponse_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	return rpcError(y.run())
}

func (y *syncer) connect() (*pb.SyncWelcome, error) {
	a := y.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	session, ok := a.controllers.connect(y.id, y.election)
	if !ok {
		return nil, errFenced
	}
	y.session = session
	a.log.Info("controller connected", "controller", y.id, "election", y.election)
	return &pb.SyncWelcome{
		Node:           a.options.Node,
		Generation:     &pb.Generation{Number: a.state.Generation(), Level: pb.Generation_PROGRAMMED},
		OwnedResources: uint64(a.state.Owned(y.id)),
	}, nil
}

func (y *syncer) disconnect() {
	a := y.agent
	a.mu.Lock()
	defer a.mu.Unlock()
	a.controllers.disconnect(y.id, y.session, a.state)
	a.log.Info("controller left", "controller", y.id, "election", y.election)
}

// run serves the stream until it ends or a newer leader fences it.
func (y *syncer) run() error {
	ctx, cancel := context.WithCancel(y.stream.Context())
	defer cancel()
	type message struct {
		req *pb.SyncRequest
		err error
	}
	messages := make(chan message)
	go func() { // ends with the stream, which ends when the handler returns
		for {
			req, err := y.stream.Recv()
			select {
			case messages <- message{req, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-y.session.fenced:
			return errFenced
		case m := <-messages:
			if errors.Is(m.err, io.EOF) {
				return nil
			}
			if m.err != nil {
				return m.err
			}
			if err := y.serve(m.req); err != nil {
				return err
			}
		}
	}
}

// serve carries out one message. An error ends the stream.
func (y *syncer) serve(req *pb.SyncRequest) error {
	switch m := req.GetMessage().(type) {
	case *pb.SyncRequest_SnapshotBegin:
		y.snapshot = &snapshotInput{allowEmpty: m.SnapshotBegin.GetAllowEmpty()}
		return nil
	case *pb.SyncRequest_SnapshotChunk:
		if y.snapshot == nil {
			return status.Error(codes.InvalidArgument, "a snapshotChunk comes between snapshotBegin and snapshotEnd")
		}
		return y.chunk(m.SnapshotChunk.GetResources())
	case *pb.SyncRequest_SnapshotEnd:
		return y.endSnapshot(m.SnapshotEnd.GetSequence())
	case *pb.SyncRequest_Delta:
		return y.delta(m.Delta)
	}
	return status.Error(codes.InvalidArgument, "after hello come snapshotBegin, snapshotChunk, snapshotEnd and then delta")
}

// chunk takes up a part of a snapshot and works on it while the next one comes.
func (y *syncer) chunk(resources []*pb.Resource) error {
	in := y.snapshot
	if n := len(in.resources) + len(resources); n > state.MaxResources {
		return status.Errorf(codes.ResourceExhausted, "the snapshot holds %d resources so far, and a node takes at most %d", n, state.MaxResources)
	}
	in.resources = append(in.resources, resources...)
	in.drafts = append(in.drafts, y.agent.draft(resources)...)
	return nil
}

// endSnapshot applies a snapshot as one transaction and sweeps what was not in it.
func (y *syncer) endSnapshot(sequence uint64) error {
	in := y.snapshot
	if in == nil {
		return status.Error(codes.InvalidArgument, "a snapshotEnd comes after snapshotBegin")
	}
	y.snapshot = nil
	keep := make(map[state.Key]struct{}, len(in.resources))
	for _, r := range in.resources {
		keep[state.KeyOf(r)] = struct{}{}
	}
	req := request{
		Request: state.Request{Owner: y.id, Upserts: in.resources, Drafts: in.drafts},
		sweep: func(s *state.State) ([]state.Key, error) {
			if err := y.valid(sequence); err != nil {
				return nil, err
			}
			if len(in.resources) == 0 && s.Owned(y.id) > 0 && !in.allowEmpty {
				return nil, errEmpty
			}
			return owned(s, y.id, keep), nil
		},
	}
	ok, err := y.transact(sequence, req)
	y.synced = y.synced || ok
	return err
}

// delta applies one change after a snapshot.
func (y *syncer) delta(d *pb.SyncDelta) error {
	req := request{Request: state.Request{Owner: y.id, Upserts: d.GetUpserts(), Drafts: y.agent.draft(d.GetUpserts())}}
	for _, k := range d.GetDeletes() {
		req.Deletes = append(req.Deletes, state.Key{Kind: k.GetKind(), Name: k.GetName()})
	}
	req.sweep = func(s *state.State) ([]state.Key, error) {
		if err := y.valid(d.GetSequence()); err != nil {
			return nil, err
		}
		if !y.synced {
			return nil, errors.New("a delta comes after a snapshot: send snapshotBegin, snapshotChunk and snapshotEnd first")
		}
		return nil, y.foreign(s, req.Deletes)
	}
	_, err := y.transact(d.GetSequence(), req)
	return err
}

// foreign refuses to delete what another owner wrote.
func (y *syncer) foreign(s *state.State, deletes []state.Key) error {
	var list []state.Violation
	for i, k := range deletes {
		if r := s.Get(k); r != nil && r.GetOwner() != y.id {
			list = append(list, state.Violation{
				Upsert: -1, Request: fmt.Sprintf("deletes[%d]", i), Resource: k, Field: "owner",
				Description: fmt.Sprintf("belongs to %s, and a controller deletes only its own; upsert it first to take it over", r.GetOwner()),
			})
		}
	}
	if len(list) > 0 {
		return &state.Error{Violations: list}
	}
	return nil
}

// valid refuses a message of a fenced controller or out of order. It is called
// with the state locked.
func (y *syncer) valid(sequence uint64) error {
	switch {
	case !y.agent.controllers.current(y.id, y.session):
		return errFenced
	case sequence <= y.sequence && y.sequence != 0:
		return fmt.Errorf("sequence %d does not follow %d: it grows along the stream", sequence, y.sequence)
	}
	return nil
}

// transact carries out a transaction and acknowledges it: first that it is
// ACCEPTED, then that it is PROGRAMMED. It reports whether it was. The stream is
// written to outside the transaction, so that a slow controller holds up nobody.
func (y *syncer) transact(sequence uint64, req request) (bool, error) {
	req.election = y.election
	type result struct {
		out *outcome
		err error
	}
	accepted, done := make(chan *pb.Generation, 1), make(chan result, 1)
	req.accepted = func(g *pb.Generation) { accepted <- g }
	go func() {
		out, err := y.agent.transact(req)
		close(accepted)
		done <- result{out, err}
	}()
	for g := range accepted {
		if err := y.ack(sequence, g, 0); err != nil {
			<-done
			return true, err
		}
	}
	r := <-done
	if errors.Is(r.err, errFenced) {
		return false, r.err
	}
	if r.err != nil {
		return false, y.nack(sequence, r.err)
	}
	y.sequence = sequence
	y.agent.mu.Lock()
	if c := y.agent.controllers.byID[y.id]; c.stream == y.session {
		c.acknowledged = sequence
	}
	y.agent.mu.Unlock()
	return true, y.ack(sequence, &pb.Generation{Number: r.out.generation, Level: pb.Generation_PROGRAMMED}, r.out.swept)
}

func (y *syncer) ack(sequence uint64, g *pb.Generation, swept int) error {
	return y.stream.Send(&pb.SyncResponse{Message: &pb.SyncResponse_Ack{Ack: &pb.SyncAck{
		Sequence: sequence, Generation: g, Swept: uint64(swept),
	}}})
}

func (y *syncer) nack(sequence uint64, err error) error {
	n := &pb.SyncNack{Sequence: sequence, Reason: err.Error()}
	var invalid *state.Error
	if errors.As(err, &invalid) {
		for _, v := range invalid.Violations {
			n.Violations = append(n.Violations, v.Proto())
		}
	}
	return y.stream.Send(&pb.SyncResponse{Message: &pb.SyncResponse_Nack{Nack: n}})
}
