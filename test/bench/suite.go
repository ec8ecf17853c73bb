package main

import (
	"context"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/test/bench/peer"
)

// suite is a set of workloads and the worlds that they are measured in, ours and
// those of peers.
type suite struct {
	name      string   // begins the names of its figures
	title     string   // for the reader of the progress
	peers     []string // beside ours, in the order of the report
	quick     []string // the peers with --quick
	workloads []workload
	// start makes a world, of ours and of builds with a binary of the vRouter.
	start func(ctx context.Context, s peer.Setup, name, binary string) (*peer.Peer, error)
}

// suites in the order in which they run. Those between two nodes have a name that
// begins with overlay.
func suites() []suite {
	return []suite{
		{"e2e", "end to end", []string{"kernel", "ovs", "tap-loop"}, []string{"kernel", "ovs", "tap-loop"}, workloads(), startHost},
		{"overlay", "between two nodes", []string{"kernel", "vxlan", "tunnel-loop"}, []string{"kernel"}, overlayWorkloads(), startOverlay(peer.Wire1500)},
		{"overlay/jumbo", "between two nodes, long frames", []string{"kernel"}, []string{"kernel"}, jumboWorkloads(), startOverlay(peer.Wire9000)},
	}
}

// peerNames returns the names of all peers beside builds, each once, in the order
// of the report.
func peerNames() []string {
	var names []string
	for _, s := range suites() {
		for _, name := range s.peers {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// full is the name by which --only knows a workload.
func (s *suite) full(w workload) string { return s.name + "/" + w.name }

// matches says whether a word of --only stands for the suite: by its own name or
// by one that it begins with.
func (s *suite) matches(word string) bool {
	return s.name == word || strings.HasPrefix(s.name, word+"/")
}

// startHost makes a world on one host.
func startHost(ctx context.Context, s peer.Setup, name, binary string) (*peer.Peer, error) {
	switch name {
	case "kernel":
		return peer.Kernel(ctx, s)
	case "ovs":
		return peer.OVS(ctx, s)
	case "tap-loop":
		return peer.Loop(ctx, s)
	}
	return peer.VRouter(ctx, s, name, binary)
}

// startOverlay makes worlds of two nodes with a wire between them.
func startOverlay(w peer.Wire) func(context.Context, peer.Setup, string, string) (*peer.Peer, error) {
	return func(ctx context.Context, s peer.Setup, name, binary string) (*peer.Peer, error) {
		switch name {
		case "kernel":
			return peer.KernelOverlay(ctx, s, w)
		case "tunnel-loop":
			return peer.LoopOverlay(ctx, s, w)
		case "vxlan":
			return peer.VRouterOverlay(ctx, s, name, binary, w, peer.VXLAN)
		}
		return peer.VRouterOverlay(ctx, s, name, binary, w, peer.MPLSoverUDP)
	}
}
