package agentsync_test

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/vrouter-go/vrouter/controller/agentsync"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestFaults runs random histories of changes while the stream is cut at any byte,
// the controller is killed and started, and the agent too. Whatever happened, the
// agent's resources are in the end those that should be; and while the node itself
// stays up, a connection that no change concerns is one session all the time.
func TestFaults(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		restarts := rapid.Bool().Draw(r, "the node restarts too")
		n := newNode(t)
		h := &history{T: r, node: n, wire: newWire(t, n.socket()), model: map[agentsync.Key]*pb.Resource{}, bad: map[agentsync.Key]bool{}}
		defer func() { h.controller.stop(); n.stop() }()
		for _, res := range resources(t, world...) {
			h.model[agentsync.KeyOf(res)] = res
		}
		h.startController()
		h.settle()
		n.hello(r)
		actions := map[string]func(*rapid.T){
			"change": h.change, "twice": h.twice, "in parts": h.inParts, "wrong": h.wrong, "all": func(*rapid.T) { h.controller.Set(full(h.list()...)) },
			"cut": func(*rapid.T) { h.wire.cut() }, "cut later": h.cutLater, "controller restarts": func(*rapid.T) { h.controller.stop(); h.startController() },
			"wait": func(*rapid.T) { h.settle() },
		}
		if restarts {
			actions["node restarts"] = func(*rapid.T) { n.stop(); n.start() }
		}
		names := slices.Sorted(maps.Keys(actions))
		for range rapid.IntRange(1, 12).Draw(r, "actions") {
			actions[rapid.SampledFrom(names).Draw(r, "action")](r)
		}
		h.heal()
		eventually(r, "the agent has what it should", func() bool {
			st := h.controller.Status()
			return st.Synced && st.Settled && len(st.Refused) == 0
		})
		if err := equal(n.holds(), h.list()); err != nil {
			r.Errorf("%v", err)
		}
		if !restarts {
			n.hello(r)
			if flows := n.flows(r); len(flows) != 1 || flows[0].GetForwardCounters().GetPackets() != 2 {
				r.Errorf("flows %v, want one with two packets", flows)
			}
		}
	})
}

// history is a world that changes at random, and who tells the agent of it.
type history struct {
	*rapid.T
	node       *node
	wire       *wire
	controller *controller
	model      map[agentsync.Key]*pb.Resource
	bad        map[agentsync.Key]bool // those that the agent refuses
	last       agentsync.Change
}

func (h *history) list() []*pb.Resource { return clone(slices.Collect(maps.Values(h.model))) }

func (h *history) startController() {
	h.controller = h.node.controller(h.wire.socket)
	h.controller.Set(full(h.list()...))
}

// settle waits for all that can come to pass.
func (h *history) settle() {
	h.controller.settle(h.T)
	if have := h.node.holds(); len(h.bad) == 0 && len(h.controller.Status().Refused) == 0 {
		if err := equal(have, h.list()); err != nil {
			h.Errorf("in between: %v", err)
		}
	}
}

const pods = 6

func podKey(i int) agentsync.Key {
	return agentsync.Key{Kind: "VirtualMachineInterface", Name: fmt.Sprintf("pod-%d", i)}
}

// step changes the model, in a way that leaves no name dangling, and returns the
// difference.
func (h *history) step() (c agentsync.Change) {
	put := func(r *pb.Resource) {
		h.model[agentsync.KeyOf(r)] = r
		delete(h.bad, agentsync.KeyOf(r))
		c.Upserts = append(c.Upserts, proto.CloneOf(r))
	}
	i := rapid.IntRange(0, pods-1).Draw(h.T, "i")
	switch k := podKey(i); {
	case h.model[k] == nil:
		put(&pb.Resource{Name: k.Name, Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
			VirtualNetwork: "pods", Addresses: []string{fmt.Sprintf("10.244.0.%d", 100+i)},
		}}})
	case rapid.Bool().Draw(h.T, "the pod goes"):
		delete(h.model, k)
		c.Deletes = append(c.Deletes, key(k.Kind, k.Name))
	}
	for s := range 3 { // the services follow
		if rapid.Bool().Draw(h.T, "service stays") && c.Deletes == nil {
			continue
		}
		f := &pb.FloatingIP{Address: fmt.Sprintf("10.96.1.%d", s), VirtualNetwork: "services", FloatingIpPortMappings: &pb.FloatingIpPortMappings{
			PortMappings: []*pb.PortMapping{{SrcPort: 80, DstPort: uint32(rapid.IntRange(1, 3).Draw(h.T, "port"))}},
		}}
		for p := range pods {
			if h.model[podKey(p)] != nil && (p+s)%2 == 0 {
				f.VirtualMachineInterfaces = append(f.VirtualMachineInterfaces, podKey(p).Name)
			}
		}
		put(&pb.Resource{Name: fmt.Sprintf("service-%d", s), Spec: &pb.Resource_FloatingIp{FloatingIp: f}})
	}
	h.last = c
	return c
}

func (h *history) change(*rapid.T) { h.controller.Set(h.step()) }

// twice says one thing twice, and what was said before it in between.
func (h *history) twice(*rapid.T) {
	c := h.step()
	h.controller.Set(c)
	h.controller.Set(agentsync.Change{Upserts: clone(c.Upserts), Deletes: c.Deletes})
}

// inParts tells a change in two parts in the wrong order: names dangle in between.
func (h *history) inParts(*rapid.T) {
	c := h.step()
	h.controller.Set(agentsync.Change{Deletes: c.Deletes})
	slices.Reverse(c.Upserts)
	for _, r := range c.Upserts {
		h.controller.Set(agentsync.Change{Upserts: []*pb.Resource{r}})
	}
}

// wrong makes a service that the agent refuses.
func (h *history) wrong(*rapid.T) {
	c := h.step()
	for _, r := range c.Upserts {
		if f := r.GetFloatingIp(); f != nil {
			f.FloatingIpPortMappings.PortMappings[0].DstPort = 70_000
			h.model[agentsync.KeyOf(r)] = proto.CloneOf(r)
			h.bad[agentsync.KeyOf(r)] = true
		}
	}
	h.controller.Set(c)
}

// heal makes right what is wrong.
func (h *history) heal() {
	var c agentsync.Change
	for k := range h.bad {
		r := proto.CloneOf(h.model[k])
		r.GetFloatingIp().FloatingIpPortMappings.PortMappings[0].DstPort = 80
		h.model[k] = r
		c.Upserts = append(c.Upserts, proto.CloneOf(r))
	}
	h.controller.Set(c)
}

func (h *history) cutLater(*rapid.T) {
	h.wire.cutAfter(int64(rapid.IntRange(0, 6000).Draw(h.T, "bytes")))
}

// hello sends a packet of one connection, from web-1 through the service to web-2.
func (n *node) hello(t failer) {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: forwarder.RouterMAC[:], EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IP{10, 244, 0, 11}, DstIP: net.IP{10, 96, 0, 10}}
	tcp := &layers.TCP{SrcPort: 40000, DstPort: 80, SYN: true, Seq: 1, Window: 65535}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, tcp); err != nil {
		t.Fatal(err)
	}
	f := port.NewFrame()
	f.End = f.Start + copy(f.Buf[f.Start:], b.Bytes())
	n.device("web-1").Inject(0, f)
	frame := port.NewFrame()
	eventually(t, "the packet arrives at web-2", func() bool {
		for n.device("web-2").Drain(0, []*port.Frame{frame}) == 1 {
			p := gopacket.NewPacket(frame.Bytes(), layers.LayerTypeEthernet, gopacket.Default)
			if l, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP); ok && l.DstPort == 8080 {
				return true
			}
		}
		return false
	})
}

func (n *node) flows(t failer) (list []*pb.Flow) {
	t.Helper()
	for f, err := range n.client.ListFlows(n.t.Context(), &pb.ListFlowsRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, f)
	}
	return list
}
