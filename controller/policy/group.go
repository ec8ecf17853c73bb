package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// group is the pods that peers of policies select, wherever they are. One that asks
// for a port by name has an address set for each number that the name stands for.
type group struct {
	key      string
	scope    *scope            // nil: all pods
	block    *block            // nil: whatever their address
	portName string            // "": whatever their ports
	protocol pb.Protocol_Value // of the port; ANY: whatever

	within  map[string]bool // namespaces that scope covers, where it goes by their labels
	members map[podKey]member
	sets    map[portNumber]*addressSet
	users   map[policyKey]struct{} // the policies that name it
}

// portNumber is what a name of a port stands for; zero in a group without one.
type portNumber struct {
	protocol pb.Protocol_Value
	port     uint16
}

func (n portNumber) compare(o portNumber) int {
	return cmp.Or(cmp.Compare(n.protocol, o.protocol), cmp.Compare(n.port, o.port))
}

// member is what a pod brings into a group.
type member struct {
	addresses []netip.Addr
	numbers   []portNumber
}

// addressSet becomes an AddressSet.
type addressSet struct {
	name  string
	count map[netip.Addr]int // pods with the address; two only while one replaces the other
	dirty bool
	sent  bool
}

func groupKey(s *scope, b *block, portName string, protocol pb.Protocol_Value) string {
	key := s.key()
	if b != nil {
		key += "/in(" + b.key() + ")"
	}
	if portName != "" {
		key += fmt.Sprintf("/port(%s %s)", portName, protocol)
	}
	return key
}

// of returns what a pod brings into the group; ok is false for one that is not in it.
func (g *group) of(p *Pod, namespace map[string]string) (m member, ok bool) {
	if !p.counts() {
		return m, false
	}
	if s := g.scope; s != nil && (!s.covers(p.Namespace, namespace) || !s.pods.matches(p.Labels)) {
		return m, false
	}
	for _, a := range p.IPs {
		if a = a.Unmap(); a.IsValid() && (g.block == nil || g.block.contains(a)) {
			m.addresses = append(m.addresses, a)
		}
	}
	m.numbers = []portNumber{{}}
	if g.portName != "" {
		m.numbers = nil
		for _, n := range p.NamedPorts {
			protocol, known := protocolOf(&n.Protocol)
			if number := (portNumber{protocol, n.Port}); known && n.Port != 0 && n.Name == g.portName &&
				(g.protocol == pb.Protocol_ANY || g.protocol == protocol) && !slices.Contains(m.numbers, number) {
				m.numbers = append(m.numbers, number)
			}
		}
	}
	return m, len(m.addresses) > 0 && len(m.numbers) > 0
}

// set makes a pod's part of the group what it is now. It reports whether the sets
// that the group has have changed, which concerns the policies that name it.
func (g *group) set(k podKey, now member, in bool) (renamed bool) {
	old, was := g.members[k]
	if was == in && slices.Equal(old.addresses, now.addresses) && slices.Equal(old.numbers, now.numbers) {
		return false
	}
	if in {
		g.members[k] = now
		for _, n := range now.numbers {
			s := g.sets[n]
			if s == nil {
				s = g.newSet(n)
				renamed = true
			}
			for _, a := range now.addresses {
				if s.count[a]++; s.count[a] == 1 {
					s.dirty = true
				}
			}
		}
	} else {
		delete(g.members, k)
	}
	if !was {
		return renamed
	}
	for _, n := range old.numbers {
		s := g.sets[n]
		for _, a := range old.addresses {
			if s.count[a]--; s.count[a] == 0 {
				delete(s.count, a)
				s.dirty = true
			}
		}
		renamed = renamed || n != portNumber{} && len(s.count) == 0
	}
	return renamed
}

// newSet makes the set of a number, empty.
func (g *group) newSet(n portNumber) *addressSet {
	key := g.key
	if n != (portNumber{}) {
		key += fmt.Sprintf("=%s %d", n.protocol, n.port)
	}
	s := &addressSet{name: setName(key), count: map[netip.Addr]int{}, dirty: true}
	g.sets[n] = s
	return s
}

// numbers lists those that have a set with addresses, or the one of a group that asks
// for no port.
func (g *group) numbers() []portNumber {
	var list []portNumber
	for n, s := range g.sets {
		if n == (portNumber{}) || len(s.count) > 0 {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, portNumber.compare)
	return list
}

// resource writes a set.
func (s *addressSet) resource() *pb.Resource {
	as := &pb.AddressSet{}
	for _, a := range slices.SortedFunc(maps.Keys(s.count), netip.Addr.Compare) {
		as.Addresses = append(as.Addresses, a.String())
	}
	return &pb.Resource{Name: s.name, Spec: &pb.Resource_AddressSet{AddressSet: as}}
}
