package forwarder

import (
	"encoding/binary"

	"github.com/vrouter-go/vrouter/internal/header"
)

// edge is an Interface boiled down to what a packet of a known session needs to
// be checked against on its way in and written with on its way out. 64 bytes, one
// cache line; made by Publish, read-only afterwards.
type edge struct {
	// in is what the first 14 bytes of a frame from the port are that goes
	// through the router: to RouterMAC, from the port's own address. 0 in the
	// second word stands where the EtherType is.
	in [2]uint64
	// out is the first 12 bytes of a frame to the port.
	out     [2]uint64
	mtu     int32
	sources int32 // index of the first in Snapshot.sources
	v4, v6  int32 // how many ranges of each family follow there, IPv4 first
	// own is the port's first IPv4 source, if that is a single address, as it lies
	// in memory: the one that nearly every packet has.
	own     uint32
	present bool
	guarded bool // the port may only send from its sources
	_       [10]byte
}

// sourceRange is an AddressRange that two words of an address are checked
// against at once.
type sourceRange struct{ address, mask [2]uint64 }

// contains reports whether the address, as two little-endian words, is in the range.
func (r *sourceRange) contains(hi, lo uint64) bool {
	return (hi^r.address[0])&r.mask[0]|(lo^r.address[1])&r.mask[1] == 0
}

// makeEdges makes the edge of every interface, those of the VRFs' overlays included.
func (s *Snapshot) makeEdges() {
	s.edges = make([]edge, len(s.Interfaces))
	total := 0
	for i := range s.Interfaces {
		total += len(s.Interfaces[i].Sources)
	}
	s.sources = make([]sourceRange, 0, total)
	for i := range s.Interfaces {
		if s.Interfaces[i].Kind != Absent {
			s.edges[i] = s.newEdge(&s.Interfaces[i])
		}
	}
	s.overlays = make([]edge, len(s.VRFs))
	for i := range s.VRFs {
		if s.VRFs[i].Overlay.Kind != Absent {
			s.overlays[i] = s.newEdge(&s.VRFs[i].Overlay)
		}
	}
}

func (s *Snapshot) newEdge(itf *Interface) edge {
	var in, out [16]byte
	copy(in[0:], RouterMAC[:])
	copy(in[6:], itf.MAC[:])
	copy(out[0:], itf.MAC[:])
	copy(out[6:], RouterMAC[:])
	e := edge{
		in:  [2]uint64{binary.LittleEndian.Uint64(in[:]), binary.LittleEndian.Uint64(in[8:])},
		out: [2]uint64{binary.LittleEndian.Uint64(out[:]), binary.LittleEndian.Uint64(out[8:])},
		mtu: itf.MTU, sources: int32(len(s.sources)), present: true, guarded: itf.AntiSpoof,
	}
	if itf.Kind >= Uplink {
		e.mtu = 0 // nothing leaves by it without a neighbor's address: exit says where to
	}
	for i := range itf.Sources {
		if r := &itf.Sources[i]; r.isIPv4() {
			if e.v4 == 0 && r.Bits == 128 {
				e.own = binary.LittleEndian.Uint32(r.Address[12:])
			}
			s.sources = append(s.sources, r.words())
			e.v4++
		}
	}
	for i := range itf.Sources {
		if !itf.Sources[i].isIPv4() {
			s.sources = append(s.sources, itf.Sources[i].words())
			e.v6++
		}
	}
	return e
}

// isIPv4 reports whether the range holds IPv4 addresses: all of the v4-mapped
// prefix is given.
func (r *AddressRange) isIPv4() bool { return r.Bits >= 96 && header.IsIPv4(r.Address) }

// words returns the range in the form of sourceRange.
func (r *AddressRange) words() sourceRange {
	var mask [16]byte
	for i := range int(r.Bits) {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	w := sourceRange{mask: [2]uint64{binary.LittleEndian.Uint64(mask[:]), binary.LittleEndian.Uint64(mask[8:])}}
	w.address[0] = binary.LittleEndian.Uint64(r.Address[:])
	w.address[1] = binary.LittleEndian.Uint64(r.Address[8:])
	return w
}

// sends reports whether a packet from the port may have the source address, given
// as two little-endian words.
func (s *Snapshot) sends(e *edge, hi, lo uint64, v4 bool) bool {
	if !e.guarded {
		return true
	}
	first, n := e.sources, e.v4
	if !v4 {
		first, n = e.sources+e.v4, e.v6
	}
	ranges := s.sources[first : first+n]
	for i := range ranges {
		if ranges[i].contains(hi, lo) {
			return true
		}
	}
	return false
}
