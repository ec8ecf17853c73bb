package agent

import (
	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Report describes what a forwarder without an agent holds, after a replay: its
// sessions in the order of the table, and its drop counters, most first. The
// forwarder must stand still.
func Report(f *forwarder.Forwarder, names *compile.Names) ([]*pb.Flow, []*pb.DropCounter) {
	a := &Agent{options: Options{Forwarder: f}, state: state.New()}
	a.names.Store(names)
	var flows []*pb.Flow
	v := a.flowView()
	f.Flows().Range(0, f.Flows().Capacity()+1, func(ref flowtable.Ref, s *flowtable.Session) bool {
		flows = append(flows, v.flow(ref, s))
		return true
	})
	return flows, a.selectDrops(a.dropCounts(), nil, "", "")
}
