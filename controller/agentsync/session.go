package agentsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/agent/client"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

type stream = grpc.BidiStreamingClient[pb.SyncRequest, pb.SyncResponse]

// session is one stream, from hello to its end. It belongs to Run's goroutine.
type session struct {
	*Syncer
	client   *client.Client
	stream   stream
	answers  chan *pb.SyncResponse // closed at the stream's end
	ended    error                 // why; valid once answers is closed
	sequence uint64
	// have is what the agent holds of ours.
	have map[Key]*pb.Resource
	// retry goes off when what was refused is sent again, at retryAt; zero: not set.
	// retryWait is how long the next wait is.
	retry     *time.Timer
	retryAt   time.Time
	retryWait time.Duration
}

// session opens a stream and serves it until it breaks or ctx ends. It reports
// whether a snapshot came to be programmed.
func (s *Syncer) session(ctx context.Context) (synced bool, err error) {
	if err := s.ready(ctx); err != nil {
		return false, err
	}
	c, err := client.New(s.options.Agent) // a new one each time, so that its own backoff adds nothing
	if err != nil {
		return false, err
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	x := &session{
		Syncer: s, client: c, answers: make(chan *pb.SyncResponse),
		have: map[Key]*pb.Resource{}, retry: time.NewTimer(firstRefusedWait), retryWait: firstRefusedWait,
	}
	x.retryAt = time.Now().Add(firstRefusedWait)
	defer x.retry.Stop()
	if x.stream, err = c.Sync(ctx); err != nil {
		cancel()
		return false, err
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		x.receive(ctx)
	}()
	defer func() { cancel(); <-received }()
	if err := x.hello(ctx); err != nil {
		return false, err
	}
	if err := x.resync(ctx); err != nil {
		return false, err
	}
	return true, x.serve(ctx)
}

// ready waits for the first full change: before it nothing is known.
func (s *Syncer) ready(ctx context.Context) error {
	for {
		s.mu.Lock()
		full := s.full
		s.mu.Unlock()
		if full {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		}
	}
}

// receive hands over answers until the stream ends.
func (x *session) receive(ctx context.Context) {
	defer close(x.answers)
	for {
		m, err := x.stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the agent ended the stream")
			}
			x.ended = err
			return
		}
		select {
		case x.answers <- m:
		case <-ctx.Done():
			x.ended = ctx.Err()
			return
		}
	}
}

// send puts a message on the stream. Why it failed is what the receiver hears.
func (x *session) send(m *pb.SyncRequest) error {
	err := x.stream.Send(m)
	if errors.Is(err, io.EOF) {
		for range x.answers { // at most the answer to what was sent before
		}
		return x.ended
	}
	return err
}

// answer waits for the next answer.
func (x *session) answer(ctx context.Context) (*pb.SyncResponse, error) {
	timeout := time.NewTimer(answerTimeout)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timeout.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "the agent gave no answer within %s; look at its log", answerTimeout)
	case m, ok := <-x.answers:
		if !ok {
			return nil, x.ended
		}
		return m, nil
	}
}

// hello says who we are.
func (x *session) hello(ctx context.Context) error {
	if err := x.send(&pb.SyncRequest{Message: &pb.SyncRequest_Hello{Hello: &pb.SyncHello{
		ControllerId: x.options.ControllerID, ElectionId: x.options.ElectionID,
	}}}); err != nil {
		return err
	}
	m, err := x.answer(ctx)
	if err != nil {
		return err
	}
	w := m.GetWelcome()
	if w == nil {
		return fmt.Errorf("the agent answered hello with %T; vrkube and vrouter should be of the same release", m.GetMessage())
	}
	x.metrics.connections.Inc()
	x.mu.Lock()
	x.status.Connected, x.status.Broken, x.status.Since, x.status.Node = true, "", time.Now(), w.GetNode()
	x.mu.Unlock()
	x.log.Info("connected to the agent", "node", w.GetNode(), "generation", w.GetGeneration().GetNumber(), "owned", w.GetOwnedResources())
	return nil
}

// serve sends what changes until the stream breaks.
func (x *session) serve(ctx context.Context) error {
	for {
		work, latency := x.next()
		if len(work) > 0 {
			if err := x.apply(ctx, work); err != nil {
				x.putBack(latency)
				return err
			}
		}
		x.observe(latency)
		if x.settled() {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case m, ok := <-x.answers:
				if !ok {
					return x.ended
				}
				return fmt.Errorf("the agent sent %T unasked; vrkube and vrouter should be of the same release", m.GetMessage())
			case <-x.wake:
			case <-x.retry.C:
				if err := x.again(ctx); err != nil {
					return err
				}
			}
		}
	}
}

// settled reports whether nothing waits, and notes it.
func (x *session) settled() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.status.Settled = len(x.dirty) == 0
	return x.status.Settled
}

// item is one resource that the agent should have otherwise; nil: not at all.
type item struct {
	key Key
	res *pb.Resource
}

// next takes what has changed since the agent was last told, and when the cluster
// changed. Where a resource that was refused is among it, all that were refused go
// along: one may have been the other's fault.
func (x *session) next() ([]item, []time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	again := false
	for k := range x.dirty {
		again = again || x.refused[k] != nil
	}
	for k := range x.refused {
		if again {
			x.dirty[k] = struct{}{}
		}
	}
	var work []item
	for k := range x.dirty {
		if want := x.desired[k]; !same(want, x.have[k]) {
			work = append(work, item{k, want})
		} else {
			delete(x.refused, k) // as the agent has it
		}
	}
	clear(x.dirty)
	latency := x.triggers
	x.triggers = nil
	return work, latency
}

func same(a, b *pb.Resource) bool {
	return a == b || a != nil && b != nil && proto.Equal(a, b)
}

// observe measures how long changes took to be programmed.
func (x *session) observe(triggers []time.Time) {
	for _, t := range triggers {
		x.metrics.latency.Observe(max(0, time.Since(t).Seconds()))
	}
}

// putBack has the latency of changes measured when they are programmed after all.
func (x *session) putBack(triggers []time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.triggers = append(triggers, x.triggers...)
	x.triggers = x.triggers[:min(len(x.triggers), maxTriggers)]
}

// transact waits until a transaction is programmed or refused. send puts it on
// the stream with the sequence that it is given.
func (x *session) transact(ctx context.Context, kind string, resources int, send func(sequence uint64) error) (*pb.SyncNack, error) {
	x.sequence++
	begin := time.Now()
	nack, err := x.exchange(ctx, kind, begin, send)
	result := resultProgrammed
	switch {
	case err != nil:
		result = resultBroken
	case nack != nil:
		result = resultRefused
	}
	x.metrics.transactions.WithLabelValues(kind, result).Inc()
	x.metrics.resources.WithLabelValues(kind).Observe(float64(resources))
	return nack, err
}

func (x *session) exchange(ctx context.Context, kind string, begin time.Time, send func(sequence uint64) error) (*pb.SyncNack, error) {
	if err := send(x.sequence); err != nil {
		return nil, err
	}
	for {
		m, err := x.answer(ctx)
		if err != nil {
			return nil, err
		}
		switch ack, nack := m.GetAck(), m.GetNack(); {
		case ack.GetSequence() == x.sequence && ack.GetGeneration().GetLevel() == pb.Generation_ACCEPTED:
			x.metrics.duration.WithLabelValues(kind, levelAccepted).Observe(time.Since(begin).Seconds())
		case ack.GetSequence() == x.sequence:
			x.metrics.duration.WithLabelValues(kind, levelProgrammed).Observe(time.Since(begin).Seconds())
			x.mu.Lock()
			x.status.Generation = ack.GetGeneration().GetNumber()
			x.mu.Unlock()
			if n := ack.GetSwept(); n > 0 {
				x.log.Info("stale resources were swept", "count", n)
			}
			return nil, nil
		case nack.GetSequence() == x.sequence:
			return nack, nil
		default:
			return nil, fmt.Errorf("the agent answered %v to sequence %d; vrkube and vrouter should be of the same release", m, x.sequence)
		}
	}
}
