package agent_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// complaint is what status says of a component.
func complaint(a *agent.Agent, name string) string {
	for _, c := range a.Status().GetComponents() {
		if c.GetName() == name {
			return c.GetReason()
		}
	}
	return "there is no component " + name
}

// TestPeersAreWatched holds that two nodes find each other by BFD on the link and
// through the tunnel, notice that the other has gone, and see it return.
func TestPeersAreWatched(t *testing.T) {
	for _, path := range []string{"SINGLE_HOP", "OVERLAY"} {
		t.Run(path, func(t *testing.T) {
			p := newPair(t)
			var nodes []*agent.Agent
			for _, n := range []struct{ ns, own, other string }{{p.node, "10", "20"}, {p.host, "20", "10"}} {
				a, stop := p.daemon()
				defer stop()
				_, err := a.Apply(t.Context(), &pb.ApplyRequest{Upserts: resources(t,
					fmt.Sprintf(`{"name":"ip-fabric","virtualNetwork":{"label":%s}}`, n.own+"0"),
					fmt.Sprintf(`{"name":"to-other-4","route":{"vrf":"ip-fabric","prefix":"192.0.2.%s/32","nextHops":[{"tunnel":{"remote":"192.0.2.%[1]s","label":%[1]s0}}]}}`, n.other),
					fmt.Sprintf(`{"name":"to-other-6","route":{"vrf":"ip-fabric","prefix":"2001:db8::%s/128","nextHops":[{"tunnel":{"remote":"2001:db8::%[1]s","label":%[1]s0}}]}}`, n.other),
					fmt.Sprintf(`{"name":"node","fabric":{"vhost0":{"netns":%q},"uplink":{"device":"eth0","netns":%[1]q},"peers":[
						{"name":"other","addresses":["192.0.2.%s","2001:db8::%[2]s"],"bfd":{"path":%q,"intervalMilliseconds":50}}]}}`, netns.Path(n.ns), n.other, path),
				)})
				if err != nil {
					t.Fatal(err)
				}
				nodes = append(nodes, a)
			}
			up := func() bool { return complaint(nodes[0], "bfd") == "" && complaint(nodes[1], "bfd") == "" }
			defer func() {
				if t.Failed() {
					for _, a := range nodes {
						t.Log(complaint(a, "bfd"), a.Drops(), a.Status().GetPorts())
					}
				}
			}()
			eventually(t, "both see each other", up)
			if path == "SINGLE_HOP" { // inside a tunnel the packets do not pass the other kernel's rules
				p.nft(p.host, "add table inet mute; add chain inet mute out { type filter hook output priority 0; }; add rule inet mute out udp dport 3784 drop")
				eventually(t, "who is silent is down, though the way is there", func() bool { return silent(nodes[0]) == 2 })
				p.nft(p.host, "delete table inet mute")
				eventually(t, "who speaks again is up", func() bool { return silent(nodes[0]) == 0 && up() })
			}
			p.ip(p.host, "link set eth0 down")
			eventually(t, "the other is gone", func() bool {
				said := complaint(nodes[0], "bfd")
				return strings.Contains(said, "other 192.0.2.20 is Down") && strings.Contains(said, "other 2001:db8::20 is Down")
			})
			p.ip(p.host, "link set eth0 up")
			p.ip(p.host, "addr replace 2001:db8::20/64 dev eth0 nodad") // the kernel takes it away with the link
			eventually(t, "both see each other again", up)
		})
	}
}

// silent is how many addresses of other nodes are down because of BFD.
func silent(a *agent.Agent) (n int) {
	for _, p := range a.Status().GetPeers() {
		if p.GetState() == pb.PeerStatus_DOWN && strings.Contains(p.GetReason(), "BFD") {
			n++
		}
	}
	return n
}

// nft changes the rules of a namespace.
func (p *pair) nft(ns, rules string) {
	p.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		p.t.Skip("SKIP-TOOL: nft (nftables) is not installed")
	}
	if out, err := exec.Command("ip", "netns", "exec", ns, "nft", rules).CombinedOutput(); err != nil {
		p.t.Fatalf("nft %s: %v\n%s", rules, err, out)
	}
}
