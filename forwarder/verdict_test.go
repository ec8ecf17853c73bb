package forwarder

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/nexthop"
)

// toldOf is what somebody gets who calls in vain.
type toldOf string

const (
	refusal toldOf = "refused" // TCP reset, or ICMP port unreachable, from where it called
	silence toldOf = "nothing"
)

// told reads what came out to a caller at a port, and nothing may have come out elsewhere.
func (r *rig) told(in uint16, caller, called string) toldOf {
	r.t.Helper()
	got := silence
	for i := range r.ports {
		for _, b := range r.sent(i) {
			p := decode(b)
			src, dst, _, _ := tuple(p)
			tcp, _ := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
			icmp4, _ := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
			icmp6, _ := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
			refuses := tcp != nil && tcp.RST || icmp4 != nil && icmp4.TypeCode == layers.CreateICMPv4TypeCode(3, 3) || icmp6 != nil && icmp6.TypeCode == layers.CreateICMPv6TypeCode(1, 4)
			if i != in || got != silence || !refuses || src != called || dst != caller {
				r.t.Errorf("out of port %d came %v", i, p)
			}
			sound(r.t, p)
			got = refusal
		}
	}
	return got
}

// A call that nobody takes is refused at once where nobody could, and dropped where it
// is this caller whom a policy keeps out, or where there is no such service; by every
// frontend alike: a ClusterIP, a node's port, from a pod, from the node, from outside.
func TestServiceVerdicts(t *testing.T) {
	type frontend struct {
		name           string
		in             uint16
		caller, called string
		port           uint16
	}
	for family, a := range snatFamilies {
		unused := map[string]string{"IPv4": "10.96.0.99", "IPv6": "fd00:96::99"}[family]
		subnet := map[string]string{"IPv4": "10.96.0.0/24", "IPv6": "fd00:96::/112"}[family]
		cluster := []frontend{
			{"pod to ClusterIP", web1Port, a.pod, serviceOf[family], 80},
			{"node to ClusterIP", vhostPort, a.node, serviceOf[family], 80},
			{"outside to VIP", uplinkPort, a.router, serviceOf[family], 80},
		}
		nodePorts := []frontend{
			{"pod to node port", web1Port, a.pod, a.node, nodePort},
			{"node to node port", vhostPort, a.node, standInOf[family], nodePort},
			{"outside to node port", uplinkPort, a.router, a.node, nodePort},
		}
		remote := func(a snatFamily) []nexthop.Member { return []nexthop.Member{elsewhere(hostMember, a.server)} }
		with := func(state nexthop.State) func(a snatFamily) []nexthop.Member {
			return func(a snatFamily) []nexthop.Member {
				m := elsewhere(hostMember, a.server)
				m.State = state
				return []nexthop.Member{m}
			}
		}
		nobody := func(snatFamily) []nexthop.Member { return nil }
		for _, c := range []struct {
			name    string
			members func(a snatFamily) []nexthop.Member
			change  func(r *rig)
			by      []frontend
			want    toldOf
			reason  DropReason
		}{
			{"no members", nobody, nil, append(cluster, nodePorts...), refusal, DropFloatingIPNoMember},
			{"all draining", with(nexthop.Draining), nil, append(cluster, nodePorts...), refusal, DropFloatingIPNoMember},
			{"no members, policy Local", nobody, (*rig).keepLocal, append(cluster, nodePorts...), refusal, DropFloatingIPNoMember},
			{"none local, policy Local", remote, (*rig).keepLocal, append(cluster, nodePorts...), silence, DropFloatingIPNoLocalMember},
			{"a port that is not mapped", remote, (*rig).unmap, cluster, refusal, DropFloatingIPPort},
			{"an address of the services' subnet that nobody has", remote, func(r *rig) {
				for vrf := range r.state.vrfs {
					r.state.vrfs[vrf][netip.MustParsePrefix(subnet)] = nexthop.Route{NextHop: nexthop.ID(DropAddressUnassigned), Network: podsNet}
				}
				r.publish()
			}, []frontend{{"pod", web1Port, a.pod, unused, 80}, {"node", vhostPort, a.node, unused, 80}}, silence, DropAddressUnassigned},
		} {
			for _, by := range c.by {
				for proto, send := range hostProtocols {
					t.Run(fmt.Sprintf("%s/%s/%s/%s", family, c.name, by.name, proto), func(t *testing.T) {
						r := newHostRig(t, c.members)
						if c.change != nil {
							c.change(r)
						}
						if proto == "SCTP" && by.port == nodePort {
							return // not mapped there
						}
						r.send(send(by.in, by.caller, by.called, 40000, by.port, false))
						if got := r.told(by.in, by.caller, by.called); got != c.want || r.drops(by.in, c.reason) != 1 || r.sessions() != 0 {
							t.Errorf("it got %s, want %s for %v; drops %v, %d sessions", got, c.want, c.reason, r.allDrops(), r.sessions())
						}
					})
				}
			}
		}
		t.Run(family+"/ping", func(t *testing.T) {
			r := newHostRig(t, remote)
			for _, by := range cluster {
				r.send(echoTo(by.in, by.caller, by.called, 7, 1, false, "ping"))
				r.told(by.in, by.caller, by.called) // no answer is no echo reply
				if r.sessions() != 0 {
					t.Errorf("%s: %d sessions", by.name, r.sessions())
				}
			}
		})
	}
}

// keepLocal has every service keep to members of this node.
func (r *rig) keepLocal() {
	r.eachService(func(svc *Service) { svc.ExternalLocal, svc.InternalLocal = true, true })
}

// unmap takes the mappings of the ClusterIPs away, but for one.
func (r *rig) unmap() {
	for i, f := range r.state.floating[:2] {
		next := *f
		next.Mappings = map[PortKey]*Service{{6, 443}: f.Mappings[PortKey{6, 80}]}
		r.state.floating[i] = &next
	}
	r.publish()
}

// eachService changes every mapping's service and publishes it.
func (r *rig) eachService(change func(svc *Service)) {
	for i, f := range r.state.floating {
		next := *f
		next.Mappings = map[PortKey]*Service{}
		for k, svc := range f.Mappings {
			changed := *svc
			change(&changed)
			next.Mappings[k] = &changed
		}
		r.state.floating[i] = &next
	}
	r.publish()
}
