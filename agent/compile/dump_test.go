package compile

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/nexthop"
)

// dump writes what a compiled generation means, with names in place of numbers,
// so that two that mean the same read the same.
func dump(r *Result) string {
	var b strings.Builder
	s := r.Snapshot
	for _, v := range inOrder(s.VRFs, func(v forwarder.VRF) string { return v.Name }) {
		if v.Name == "" {
			continue
		}
		fmt.Fprintf(&b, "vrf %s\n", v.Name)
		for p, route := range v.FIB.All() {
			fmt.Fprintf(&b, "  %s → %s, network %s\n", p, hopText(s, route.NextHop), networkText(s, route.Network))
		}
		if v.Bridge != nil {
			for _, mac := range slices.SortedFunc(maps.Keys(v.Bridge.MACs), func(a, b [6]byte) int { return bytes.Compare(a[:], b[:]) }) {
				fmt.Fprintf(&b, "  mac %x → %s\n", mac, hopText(s, v.Bridge.MACs[mac]))
			}
			for _, line := range sortedText(v.Bridge.Flood, func(id nexthop.ID) string { return hopText(s, id) }) {
				fmt.Fprintf(&b, "  flood → %s\n", line)
			}
		}
		if o := v.Overlay; o.Kind != forwarder.Absent {
			fmt.Fprintf(&b, "  entered by %s kind %d vrf %s network %s mtu %d mac %x gateways %s %s\n", o.Name, o.Kind,
				s.VRFs[o.VRF].Name, networkText(s, o.Network), o.MTU, o.MAC, text16(o.Gateway4), text16(o.Gateway6))
		}
	}
	nodesText(&b, s)
	for _, itf := range inOrder(s.Interfaces, func(i forwarder.Interface) string { return i.Name }) {
		if itf.Kind == forwarder.Absent {
			continue
		}
		fmt.Fprintf(&b, "interface %s kind %d vrf %s network %s mtu %d quota %d antispoof %v mac %x gateways %s %s\n", itf.Name, itf.Kind,
			s.VRFs[itf.VRF].Name, networkText(s, itf.Network), itf.MTU, itf.Quota, itf.AntiSpoof, itf.MAC, text16(itf.Gateway4), text16(itf.Gateway6))
		for _, line := range sortedText(itf.Sources, func(r forwarder.AddressRange) string {
			return fmt.Sprintf("  source %s/%d\n", text16(r.Address), r.Bits)
		}) {
			b.WriteString(line)
		}
		for _, line := range sortedText(itf.Egress, func(e forwarder.EgressNAT) string {
			return fmt.Sprintf("  egress %s as %s by %s\n", s.VRFs[e.VRF].Name, text16(e.Address), s.FloatingIPs[e.FloatingIP].Name)
		}) {
			b.WriteString(line)
		}
		if itf.SNAT {
			b.WriteString("  leaves by the node's address\n")
		}
		for _, k := range itf.Serves {
			fmt.Fprintf(&b, "  serves %d/%d\n", k.Proto, k.Port)
		}
	}
	for _, line := range sortedText(s.FloatingIPs, func(f *forwarder.FloatingIP) string { return serviceText(r, f) }) {
		b.WriteString(line)
	}
	for _, spec := range r.Ports {
		if spec != nil {
			copied := *spec
			copied.Port = 0
			if copied.Uplink != nil {
				fmt.Fprintf(&b, "device uplink %+v\n", *copied.Uplink)
				continue
			}
			fmt.Fprintln(&b, "device", strings.Replace(fmt.Sprintf("%+v", copied), " Uplink:<nil>", "", 1))
		}
	}
	var nodes []string
	for a := range s.NodeAddresses {
		nodes = append(nodes, text16(a))
	}
	slices.Sort(nodes)
	fmt.Fprintf(&b, "node %v\n", nodes)
	if s.SNAT != (forwarder.SNAT{}) {
		fmt.Fprintf(&b, "others leave by %s and %s, ports %d to %d\n", text16(s.SNAT.IPv4), text16(s.SNAT.IPv6), s.SNAT.Ports.First, s.SNAT.Ports.Last)
	}
	for _, h := range r.Hosts {
		fmt.Fprintf(&b, "host %s is a member\n", h)
	}
	if s.Exits != nil {
		for p, route := range s.Exits.All() {
			fmt.Fprintf(&b, "hosts by %s → %s, network %s\n", p, hopText(s, route.NextHop), networkText(s, route.Network))
		}
	}
	for _, p := range r.NodePorts.Ports {
		fmt.Fprintf(&b, "the node calls %s %d/%d in %q as %s\n", p.Address, p.Protocol, p.Port, r.NodePorts.Netns, p.StandIn)
	}
	policyText(&b, r)
	return withoutNumbers(r, canonicalDevices(b.String()))
}

// withoutNumbers names what stands in for an address of the node by that address: the
// number of it depends on what was before.
func withoutNumbers(r *Result, text string) string {
	for _, p := range r.NodePorts.Ports {
		text = regexp.MustCompile(regexp.QuoteMeta(p.StandIn.String())+`\b`).ReplaceAllLiteralString(text, "for-"+p.Address.String())
	}
	return text
}

// nodesText writes the other nodes, the tunnels to them, and what they may send by.
func nodesText(b *strings.Builder, s *forwarder.Snapshot) {
	if s.Uplink != 0 {
		fmt.Fprintf(b, "fabric port %s\n", s.Interfaces[s.Uplink].Name)
	}
	for _, line := range sortedText(s.Peers, func(p forwarder.Peer) string {
		if p.Name == "" {
			return ""
		}
		return fmt.Sprintf("peer %s at %s from %s by %x resolved %v down %v mtu %d, return by %s\n", p.Name, text16(p.Address), text16(p.Local),
			p.Neighbor, p.Resolved, p.Down, p.MTU, hopText(s, p.Return))
	}) {
		b.WriteString(line)
	}
	for i := range s.Tunnels {
		if h := s.NextHops.At(hopTunnel(i)); s.Tunnels[i].Used != (h == nexthop.NextHop{Kind: nexthop.Tunnel, Index: uint32(i)}) {
			fmt.Fprintf(b, "tunnel %d used %v has the next hop %+v\n", i, s.Tunnels[i].Used, h)
		}
	}
	for _, line := range sortedText(s.Tunnels, func(t forwarder.Tunnel) string {
		if !t.Used {
			return ""
		}
		return "tunnel " + tunnelText(s, t) + "\n"
	}) {
		b.WriteString(line)
	}
	for label, hop := range s.Labels {
		if hop != 0 {
			fmt.Fprintf(b, "label %d → %s\n", label, hopText(s, hop))
		}
	}
	for _, vni := range slices.Sorted(maps.Keys(s.VNIs)) {
		fmt.Fprintf(b, "vni %d → vrf %s\n", vni, s.VRFs[s.VNIs[vni]].Name)
	}
}

func tunnelText(s *forwarder.Snapshot, t forwarder.Tunnel) string {
	return fmt.Sprintf("to %s at %s %s %d inside %x", s.Peers[t.Peer].Name, text16(s.Peers[t.Peer].Address), t.Encapsulation, t.Identifier, t.InnerMAC)
}

// canonicalDevices puts the device lines, which come by port index, in order.
func canonicalDevices(s string) string {
	var rest, devices []string
	for line := range strings.Lines(s) {
		if strings.HasPrefix(line, "device ") {
			devices = append(devices, line)
		} else {
			rest = append(rest, line)
		}
	}
	slices.Sort(devices)
	return strings.Join(rest, "") + strings.Join(devices, "")
}

func serviceText(r *Result, f *forwarder.FloatingIP) string {
	if f == nil {
		return ""
	}
	s := r.Snapshot
	var b strings.Builder
	fmt.Fprintf(&b, "service %s at %s vrf %s network %s ingress %v egress %v fallback %s\n", f.Name, text16(f.Address),
		s.VRFs[f.VRF].Name, networkText(s, f.Network), f.Ingress, f.Egress, hopText(s, f.Fallback))
	if f.Private || f.StandIn != ([16]byte{}) {
		fmt.Fprintf(&b, "  private %v, to the node's kernel %s\n", f.Private, text16(f.StandIn))
	}
	line := func(key forwarder.PortKey, svc *forwarder.Service) string {
		t := fmt.Sprintf("  %d/%d of %s hash %d affinity %d:", key.Proto, key.Port, r.Names.FloatingIP(f, key), svc.Hash, svc.Affinity)
		for i := range svc.Group.Len() {
			m := svc.Group.Member(i)
			where := s.Interfaces[m.Interface].Name
			if m.Interface == 0 {
				where = hopText(s, m.NextHop)
			}
			t += fmt.Sprintf(" %s(id %d weight %d %s %s port %d)", where, m.ID, m.Weight, m.State, text16(m.Address), m.Port)
		}
		return t + "\n"
	}
	if f.Whole != nil {
		b.WriteString(line(forwarder.PortKey{}, f.Whole))
	}
	var lines []string
	for k, svc := range f.Mappings {
		lines = append(lines, line(k, svc))
	}
	slices.Sort(lines)
	return b.String() + strings.Join(lines, "")
}

// policyText asks both policies about every pair of interfaces.
func policyText(b *strings.Builder, r *Result) {
	s := r.Snapshot
	list := inOrder(s.Interfaces, func(i forwarder.Interface) string { return i.Name })
	for _, from := range list {
		for _, to := range list {
			if from.Kind != forwarder.Workload || to.Kind != forwarder.Workload || len(from.Sources) == 0 || len(to.Sources) == 0 {
				continue
			}
			for _, port := range [...]uint16{80, 443} {
				q := policy.Query{SrcNetwork: from.Network, DstNetwork: to.Network, Src: from.Sources[0].Address, Dst: to.Sources[0].Address, SrcPort: 40000, DstPort: port, Proto: 6}
				n, sv := s.Policy.Network(&q), s.Policy.Security(&q, from.Identity, to.Identity)
				rule := r.Names.Rule(uint32(sv.Rule))
				if tier := r.Names.Tier(uint32(sv.Rule)); tier != "" {
					rule += " of tier " + tier
				}
				fmt.Fprintf(b, "policy %s → %s:%d network %v %s security %v %s\n", from.Name, to.Name, port,
					n.Pass, r.Names.Rule(uint32(n.Rule)), sv.Pass, rule)
			}
		}
	}
}

func hopText(s *forwarder.Snapshot, id nexthop.ID) string {
	if id.IsDiscard() {
		return "discard " + forwarder.DropReason(id).String()
	}
	switch h := s.NextHops.At(id); h.Kind {
	case nexthop.Interface:
		return "interface " + s.Interfaces[h.Port].Name
	case nexthop.VRF:
		return "vrf " + s.VRFs[h.VRF].Name
	case nexthop.FloatingIP:
		return "service " + s.FloatingIPs[h.Index].Name + " at " + text16(s.FloatingIPs[h.Index].Address)
	case nexthop.Tunnel:
		return "tunnel " + tunnelText(s, s.Tunnels[h.Index])
	case nexthop.Neighbor:
		if id == forwarder.OnLinkNextHop {
			return "the uplink's link"
		}
		return fmt.Sprintf("neighbor %d", h.Index)
	default:
		return h.Kind.String()
	}
}

func networkText(s *forwarder.Snapshot, id uint32) string {
	if id == 0 {
		return "none"
	}
	return s.VRFs[id-1].Name
}

func text16(a [16]byte) string { return netip.AddrFrom16(a).Unmap().String() }

func inOrder[T any](list []T, key func(T) string) []T {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b T) int { return strings.Compare(key(a), key(b)) })
	return list
}

func sortedText[T any](list []T, text func(T) string) []string {
	var lines []string
	for _, x := range list {
		lines = append(lines, text(x))
	}
	slices.Sort(lines)
	return lines
}
