// Package agentsync brings desired resources into the agent of one node over its
// Sync stream and keeps them there. Whoever computes what should be hands over
// changes; this package sends a snapshot and then deltas, one transaction at a
// time, waits until each is programmed, and starts again by snapshot when either
// side has broken off. What is unchanged makes no change in the agent, so no
// connection notices a resynchronisation.
//
// A resource that the agent refuses does not hold up the others: it is set aside,
// what the agent had of it stays in force, and it is sent again when it changes
// and from time to time.
package agentsync

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// DefaultControllerID owns what a Kubernetes controller writes.
const DefaultControllerID = "vrkube"

// Key names one resource: its kind, as the API spells it, and its name.
type Key struct{ Kind, Name string }

// String returns kind/name.
func (k Key) String() string { return k.Kind + "/" + k.Name }

// KeyOf returns the key of a resource; its kind is empty when it has no spec.
func KeyOf(r *pb.Resource) Key { return Key{statefile.Kind(r), r.GetName()} }

// Change is what the compile loop hands over.
type Change struct {
	// Full says that Upserts are all there should be: what is not among them goes.
	// The first change is full, and nothing is sent before it.
	Full bool
	// Upserts are new or changed resources. They belong to the Syncer afterwards
	// and must not be changed.
	Upserts []*pb.Resource
	// Deletes name resources that should be no more. One that is unknown is no error.
	Deletes []*pb.ResourceKey
	// Triggered is when the cluster changed: the last-change-trigger-time of an
	// EndpointSlice. From then to when the agent has programmed the change counts as
	// programming latency. Zero: not counted.
	Triggered time.Time
}

// Options say which agent is kept in step and as whom.
type Options struct {
	// Agent is how to reach it; the zero value is the local one.
	Agent client.Config
	// ControllerID owns the resources; "" = DefaultControllerID.
	ControllerID string
	// ElectionID fences older controllers of the same id. With 0, which needs no
	// clock and no lease, the one that connected last leads.
	ElectionID uint64
	Log        *slog.Logger // nil: slog.Default
}

// Limits of what goes out at once and how long an answer may take.
const (
	chunkResources   = 1000     // of a snapshot's message
	chunkBytes       = 1 << 20  // the same, in bytes; a larger resource goes alone
	deltaResources   = 100_000  // of a transaction; half of what the API takes
	deltaBytes       = 64 << 20 // the same, in bytes; half of what the API takes
	maxTriggers      = 4096     // changes whose latency is measured at a time
	answerTimeout    = 60 * time.Second
	firstRetry       = 10 * time.Millisecond
	secondRetry      = 100 * time.Millisecond
	lastRetry        = 5 * time.Second
	fencedRetry      = 30 * time.Second
	firstRefusedWait = time.Second
	lastRefusedWait  = 30 * time.Second
)

// Syncer keeps one agent in step. Set and Status may be called from any
// goroutine, Run from one.
type Syncer struct {
	options Options
	log     *slog.Logger
	metrics *metrics
	wake    chan struct{} // holds one token while there is something to send

	mu       sync.Mutex
	full     bool // a full change has come
	desired  map[Key]*pb.Resource
	dirty    map[Key]struct{} // changed since they were last sent
	triggers []time.Time      // of those changes
	refused  map[Key]*refusal
	status   Status
}

// refusal is a resource that the agent does not take.
type refusal struct {
	want   *pb.Resource // nil: that it goes
	former *pb.Resource // what the agent has of it; nil: nothing
	Refusal
}

// Status is where a Syncer stands.
type Status struct {
	// Connected says that the stream is open; Synced that a snapshot has been
	// programmed on it; Settled that besides nothing is on its way or waits.
	Connected, Synced, Settled bool
	// Ready says that a snapshot has been programmed at least once.
	Ready bool
	// Node is what the agent calls itself; Generation its newest one that we made.
	Node       string
	Generation uint64
	// Desired is how many resources there should be.
	Desired int
	// Refused are those that the agent does not take, by kind and name.
	Refused []Refusal
	// Broken is why the last stream ended, and Since when; empty while connected.
	Broken string
	Since  time.Time
}

// Refusal is a resource that the agent does not take.
type Refusal struct {
	Key Key
	// Field is a path in the resource, spec.address; empty where the agent names none.
	Field string
	// Reason says what is wrong and what to try.
	Reason string
	// Kept says that the version of before stays in force; else there is none.
	Kept  bool
	Since time.Time
}

// New returns a Syncer that has no resources yet.
func New(o Options) *Syncer {
	if o.ControllerID == "" {
		o.ControllerID = DefaultControllerID
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Syncer{
		options: o, log: o.Log, wake: make(chan struct{}, 1),
		desired: map[Key]*pb.Resource{}, dirty: map[Key]struct{}{}, refused: map[Key]*refusal{},
	}
	s.status.Since = time.Now()
	s.metrics = newMetrics(s)
	return s
}

// Set takes up a change. It never waits: what is on its way is finished first, and
// changes that come meanwhile become one.
func (s *Syncer) Set(c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Full {
		s.full = true
		keep := make(map[Key]struct{}, len(c.Upserts))
		for _, r := range c.Upserts {
			keep[KeyOf(r)] = struct{}{}
		}
		for k := range s.desired {
			if _, ok := keep[k]; !ok {
				s.drop(k)
			}
		}
	}
	for _, r := range c.Upserts {
		k := KeyOf(r)
		if old := s.desired[k]; old == nil || old != r && !proto.Equal(old, r) {
			s.desired[k] = r
			s.dirty[k] = struct{}{}
		}
	}
	for _, k := range c.Deletes {
		s.drop(Key{k.GetKind(), k.GetName()})
	}
	if !c.Triggered.IsZero() && len(s.triggers) < maxTriggers {
		s.triggers = append(s.triggers, c.Triggered)
	}
	s.status.Settled = false
	s.signal()
}

func (s *Syncer) drop(k Key) {
	if _, ok := s.desired[k]; ok {
		delete(s.desired, k)
		s.dirty[k] = struct{}{}
	}
}

func (s *Syncer) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Status returns where the Syncer stands.
func (s *Syncer) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Desired = len(s.desired)
	for _, r := range s.refused {
		st.Refused = append(st.Refused, r.Refusal)
	}
	slices.SortFunc(st.Refused, func(a, b Refusal) int { return compare(a.Key, b.Key) })
	return st
}

// Run keeps the agent in step until ctx ends. It comes back from every failure:
// the first retry is at once, the next ones take ever longer, up to seconds.
func (s *Syncer) Run(ctx context.Context) error {
	wait := firstRetry
	for {
		synced, err := s.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if synced {
			wait = firstRetry
		}
		pause := wait + rand.N(wait/2+1) // so that many nodes do not come back in step
		if status.Code(err) == codes.FailedPrecondition {
			pause = fencedRetry // another leads; it may stop one day
		}
		s.broken(err, pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		wait = min(max(2*wait, secondRetry), lastRetry)
	}
}

// broken notes why a stream ended. The same failure again is no news.
func (s *Syncer) broken(err error, pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := err.Error()
	var failed *client.Error
	if errors.As(err, &failed) && failed.Try != "" {
		text += "; " + failed.Try
	}
	if s.status.Connected || s.status.Broken != text {
		s.log.Warn("the agent is out of reach; what it forwards stays as it was", "error", text, "retry", pause.Round(time.Millisecond))
	}
	if s.status.Connected || s.status.Since.IsZero() {
		s.status.Since = time.Now()
	}
	s.status.Connected, s.status.Synced, s.status.Settled, s.status.Broken = false, false, false, text
}
