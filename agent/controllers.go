package agent

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// controllers are those that have connected, or own resources. Guarded by the
// agent's mu.
type controllers struct {
	byID map[string]*controller
	// headless is when the last one left while it owned resources; zero: not
	// headless.
	headless time.Time
}

type controller struct {
	election     uint64
	stream       *session // the open stream; nil: not connected
	since        time.Time
	acknowledged uint64
}

// session is one open Sync stream. Closing fenced ends it.
type session struct{ fenced chan struct{} }

func newControllers() controllers { return controllers{byID: map[string]*controller{}} }

// restore takes up what an earlier process knew. Controllers that own resources
// have left: the node is headless until one comes back.
func (c *controllers) restore(elections map[string]uint64, st *state.State) {
	for id, election := range elections {
		c.byID[id] = &controller{election: election}
	}
	for _, r := range st.All() {
		if id := r.GetOwner(); id != state.OwnerOperator && id != state.OwnerCNI && c.byID[id] == nil {
			c.byID[id] = &controller{}
		}
	}
	c.left(st, time.Now())
}

func (c *controllers) elections() map[string]uint64 {
	list := map[string]uint64{}
	for id, ctl := range c.byID {
		list[id] = ctl.election
	}
	return list
}

// connect opens a controller's stream and ends the one that it had. It fails
// where a newer leader was seen.
func (c *controllers) connect(id string, election uint64) (*session, bool) {
	ctl := c.byID[id]
	if ctl == nil {
		ctl = &controller{}
		c.byID[id] = ctl
	}
	if election < ctl.election {
		return nil, false
	}
	if ctl.stream != nil {
		close(ctl.stream.fenced)
	}
	ctl.stream, ctl.election, ctl.since = &session{fenced: make(chan struct{})}, election, time.Now()
	c.headless = time.Time{}
	return ctl.stream, true
}

// current reports whether a stream is still its controller's.
func (c *controllers) current(id string, s *session) bool {
	return c.byID[id] != nil && c.byID[id].stream == s
}

// disconnect notes the end of a stream.
func (c *controllers) disconnect(id string, s *session, st *state.State) {
	if c.current(id, s) {
		c.byID[id].stream = nil
		c.left(st, time.Now())
	}
}

// left starts the headless time when nobody is connected and somebody owns
// resources.
func (c *controllers) left(st *state.State, now time.Time) {
	owning := false
	for id, ctl := range c.byID {
		if ctl.stream != nil {
			return
		}
		owning = owning || st.Owned(id) > 0
	}
	if owning {
		c.headless = now
	}
}

// status lists the controllers by id.
func (c *controllers) status(st *state.State) []*pb.ControllerStatus {
	var list []*pb.ControllerStatus
	for _, id := range slices.Sorted(maps.Keys(c.byID)) {
		ctl := c.byID[id]
		s := &pb.ControllerStatus{
			ControllerId: id, ElectionId: ctl.election,
			AcknowledgedSequence: ctl.acknowledged, Resources: uint64(st.Owned(id)),
		}
		if ctl.stream != nil {
			s.ConnectedSince = timestamppb.New(ctl.since)
		}
		list = append(list, s)
	}
	return list
}
