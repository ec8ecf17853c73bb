package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/internal/policy"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// addressSet is an AddressSet as the engine knows it.
type addressSet struct {
	number   uint32 // never another's
	resource *pb.Resource
	prefixes map[netip.Prefix]struct{}
}

// compileAddressSets tells the engine who came into the affected sets and who left.
func (c *Compiler) compileAddressSets(affected []state.Key) error {
	p := &c.policies
	var changes []policy.AddressChange
	for name := range of(affected, state.AddressSet) {
		r := c.state.Get(state.Key{Kind: state.AddressSet, Name: name})
		s := p.sets[name]
		switch {
		case r == nil && s == nil, s != nil && s.resource == r:
			continue
		case r == nil:
			delete(p.sets, name)
			changes = append(changes, policy.AddressChange{Set: s.number, Remove: slices.Collect(maps.Keys(s.prefixes))})
			continue
		case s == nil:
			p.lastSet++
			s = &addressSet{number: p.lastSet}
			p.sets[name] = s
		}
		now := make(map[netip.Prefix]struct{}, len(r.GetAddressSet().GetAddresses()))
		change := policy.AddressChange{Set: s.number}
		for _, text := range r.GetAddressSet().GetAddresses() {
			prefix, err := state.ParseAddressOrPrefix(text)
			if err != nil {
				continue // refused before
			}
			now[prefix] = struct{}{}
			if _, ok := s.prefixes[prefix]; !ok {
				change.Add = append(change.Add, prefix)
			}
		}
		for prefix := range s.prefixes {
			if _, ok := now[prefix]; !ok {
				change.Remove = append(change.Remove, prefix)
			}
		}
		s.resource, s.prefixes = r, now
		changes = append(changes, change)
	}
	if len(changes) == 0 {
		return nil
	}
	set, err := p.set.WithAddresses(changes)
	if err != nil {
		return fmt.Errorf("address sets: %w", err)
	}
	p.set = set
	return nil
}
