package policy

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"

	"github.com/gaissmai/bart"
)

// AddressChange takes prefixes out of an address set and puts others in. What is
// in no set is taken out without effect, and what is in already stays.
type AddressChange struct {
	Set         uint32 // number of the set, from 1
	Remove, Add []netip.Prefix
}

// members says which address sets an address is in. It never changes; with makes
// another that shares what is alike.
type members struct {
	table *bart.Table[*member] // nil: nobody is in any set
}

// member is a prefix that is in sets. It never changes, and its address stands for
// all that it says.
type member struct {
	own []uint32 // the sets that name this prefix, ascending
	all []uint32 // those that name it or one around it, ascending
}

// bulkChange is the number of prefixes from which on a change copies the table
// once, and not the way to each.
const bulkChange = 512

// with returns the members after the changes.
func (m *members) with(changes []AddressChange) (*members, error) {
	total := 0
	for _, c := range changes {
		if c.Set == 0 {
			return nil, errors.New("address set 0 is kept for none; numbers start at 1")
		}
		for _, list := range [...][]netip.Prefix{c.Remove, c.Add} {
			total += len(list)
			if i := slices.IndexFunc(list, func(p netip.Prefix) bool { return !p.IsValid() }); i >= 0 {
				return nil, errors.New("address set " + strconv.FormatUint(uint64(c.Set), 10) + ": prefix " + strconv.Itoa(i) + " is none; give an address with a length")
			}
		}
	}
	e := memberEdit{table: m.table}
	if e.table == nil {
		e.table, e.own = new(bart.Table[*member]), true
	} else if total >= bulkChange {
		e.table, e.own = e.table.Clone(), true
	}
	for _, c := range changes {
		for _, p := range c.Remove {
			e.remove(canonical(p), c.Set)
		}
		for _, p := range c.Add {
			e.add(canonical(p), c.Set)
		}
	}
	return &members{table: e.table}, nil
}

// memberEdit is a table on its way from one version to the next.
type memberEdit struct {
	table *bart.Table[*member]
	own   bool // nobody else has it, so that it may be changed in place
}

func (e *memberEdit) add(p netip.Prefix, set uint32) {
	old, ok := e.table.Get(p)
	if ok && contains(old.own, set) {
		return
	}
	next := &member{}
	if ok {
		next.own = old.own
	}
	at, _ := slices.BinarySearch(next.own, set)
	next.own = slices.Insert(slices.Clip(next.own), at, set)
	e.put(p, next)
	e.inherit(p)
}

func (e *memberEdit) remove(p netip.Prefix, set uint32) {
	old, ok := e.table.Get(p)
	if !ok || !contains(old.own, set) {
		return
	}
	next := &member{own: slices.DeleteFunc(slices.Clone(old.own), func(n uint32) bool { return n == set })}
	e.put(p, next)
	e.inherit(p)
}

// put replaces a prefix; one that no set names is dropped.
func (e *memberEdit) put(p netip.Prefix, next *member) {
	switch gone := len(next.own) == 0; {
	case e.own && gone:
		e.table.Delete(p)
	case e.own:
		e.table.Insert(p, next)
	case gone:
		e.table = e.table.DeletePersist(p)
	default:
		e.table = e.table.InsertPersist(p, next)
	}
}

// inherit brings p and the prefixes inside it up to date with those around them.
func (e *memberEdit) inherit(p netip.Prefix) {
	var inside []netip.Prefix
	for q := range e.table.Subnets(p) {
		inside = append(inside, q)
	}
	for _, q := range inside {
		old, _ := e.table.Get(q)
		all := old.own
		for outer, around := range e.table.Supernets(q) {
			if outer != q {
				all = sortedSet(append(slices.Clip(all), around.own...))
			}
		}
		if slices.Equal(all, old.all) {
			continue
		}
		e.put(q, &member{own: old.own, all: all})
	}
}

// find returns what is known of the longest prefix around addr, nil if there is
// none.
func (m *members) find(addr *[16]byte) *member {
	if m.table == nil {
		return nil
	}
	in, _ := m.table.Lookup(netip.AddrFrom16(*addr).Unmap())
	return in
}

// combination is several address sets and the prefixes that are in just these.
type combination struct {
	sets    []uint32
	members []*member
}

// heavyMembers returns the combinations of more than many sets, in the order of
// the first prefix that is in them.
func heavyMembers(m *members, many int) (heavy []combination) {
	if m.table == nil {
		return nil
	}
	known := map[string]int{}
	for _, in := range m.table.AllSorted() {
		if len(in.all) <= many {
			continue
		}
		key := setKey(in.all)
		n, ok := known[key]
		if !ok {
			n = len(heavy)
			known[key] = n
			heavy = append(heavy, combination{sets: in.all})
		}
		heavy[n].members = append(heavy[n].members, in)
	}
	return heavy
}
