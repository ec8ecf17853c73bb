package policy

import (
	"net/netip"

	"github.com/gaissmai/bart"
)

// prefixes numbers the prefixes that rules name on one side, from 1; number 0
// stands for any address. From the longest prefix around an address, outer leads
// to the shorter ones around it, and at last to 0.
type prefixes struct {
	table *bart.Table[uint32] // nil if rules name no prefix
	list  []netip.Prefix      // by number; list[0] is not used
	outer []uint32            // by number
	min   []uint32            // by number: the lowest order of its rules, or noRule
}

// number returns the number of p, which a rule at order names. An invalid p is
// any address. Numbers are for building only until link is called.
func (p *prefixes) number(prefix netip.Prefix, order uint32) uint32 {
	if p.min == nil {
		p.list, p.min = make([]netip.Prefix, 1), []uint32{noRule}
	}
	n := uint32(0)
	if prefix = canonical(prefix); prefix.IsValid() {
		if p.table == nil {
			p.table = new(bart.Table[uint32])
		}
		var known bool
		if n, known = p.table.Get(prefix); !known {
			n = uint32(len(p.list))
			p.table.Insert(prefix, n)
			p.list, p.min = append(p.list, prefix), append(p.min, noRule)
		}
	}
	p.min[n] = min(p.min[n], order)
	return n
}

// link finds the outer prefix of each; no number is given out after it.
func (p *prefixes) link() {
	if p.min == nil {
		p.list, p.min = make([]netip.Prefix, 1), []uint32{noRule}
	}
	p.outer = make([]uint32, len(p.list))
	for n, prefix := range p.list {
		if n > 0 && prefix.Bits() > 0 {
			p.outer[n], _ = p.table.LookupPrefix(netip.PrefixFrom(prefix.Addr(), prefix.Bits()-1).Masked())
		}
	}
	p.list = nil
}

// find returns the number of the longest prefix around addr; 0 if there is none.
func (p *prefixes) find(addr *[16]byte) uint32 {
	if p.table == nil {
		return 0
	}
	n, _ := p.table.Lookup(netip.AddrFrom16(*addr).Unmap())
	return n
}

// canonical clears host bits and writes a v4-mapped prefix as the IPv4 prefix
// that it is.
func canonical(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// subtract yields the disjoint prefixes that make up block without the excepts:
// at most one for each bit of each except. All are canonical. It stops when
// yield returns false.
func subtract(block netip.Prefix, excepts []netip.Prefix, yield func(netip.Prefix) bool) bool {
	var inside []netip.Prefix
	for _, e := range excepts {
		if !e.Overlaps(block) {
			continue
		}
		if e.Bits() <= block.Bits() {
			return true
		}
		inside = append(inside, e)
	}
	if inside == nil {
		return yield(block)
	}
	low, high := halves(block)
	return subtract(low, inside, yield) && subtract(high, inside, yield)
}

// halves splits a prefix that is not a single address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	n := p.Bits()
	low = netip.PrefixFrom(p.Addr(), n+1)
	b := p.Addr().AsSlice()
	b[n/8] |= 0x80 >> (n % 8)
	addr, _ := netip.AddrFromSlice(b)
	return low, netip.PrefixFrom(addr, n+1)
}
