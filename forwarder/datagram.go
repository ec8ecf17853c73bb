package forwarder

import (
	"hash/maphash"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/port"
)

// Limits of one worker's fragment table, 4.4 MiB when all of it is in use.
const (
	// maxDatagrams is how many incomplete datagrams are followed at a time, as
	// in VPP. A datagram leaves with its last missing byte, so those in flight
	// count, not those per second.
	maxDatagrams = 1024
	// maxFragments is how many fragments a datagram may have. The longest one,
	// 65,535 bytes, has 54 at the smallest MTU of a port, 1,280 bytes.
	maxFragments = 64
	// chunkSize and maxChunks bound the bytes that wait: 4 MiB, a fragment of
	// a 1,500 byte MTU in one chunk, longer ones in several.
	chunkSize = 2048
	maxChunks = 2048
	// datagramShare and chunkShare are what one sender may have of the table (a
	// port, or a network behind the uplink), so that its flood leaves the others
	// theirs.
	datagramShare = maxDatagrams / 4
	chunkShare    = maxChunks / 4
	// holdTicks is how long fragments wait for the first one: 3 s, above the
	// 2 s of RFC 6146 §4 (FRAGMENT_MIN) by more than a tick of the clock and an
	// idle worker's sleep.
	holdTicks = 30
	// openTicks is how long the ports of a first fragment are remembered for
	// those that are missing: 15 s, the time of RFC 791 §3.2. A receiver waits 60 s
	// at most (RFC 8200 §4.5); an identification that comes again after 15 s is
	// rather a new datagram (RFC 6864, RFC 4963 §3).
	openTicks = 150
)

const buckets = 2 * maxDatagrams

// fragmentKey is what the fragments of a datagram have in common. Without
// pointers; 44 bytes.
type fragmentKey struct {
	src, dst [16]byte
	id       uint32
	in       uint16 // ingress port
	vrf      uint16 // and the VRF that it enters there
	proto    uint8  // 0 for IPv6
	tunnel   bool   // it was in a tunnel
	_        [2]uint8
}

// share is whose the datagram is: that of the port it came in by, and for tunnels,
// which all come in by the uplink, that of the network they lead into.
func (k *fragmentKey) share() uint32 {
	if k.tunnel {
		return MaxPorts + uint32(k.vrf)
	}
	return uint32(k.in)
}

// numShares counts the ports and the VRFs that tunnels may lead into.
const numShares = MaxPorts + 1<<16

// extent is the place of one fragment's data in its datagram, in bytes.
type extent struct{ start, length uint16 }

// datagram is what is known of an incomplete datagram. Without pointers; 332
// bytes.
type datagram struct {
	key     fragmentKey
	expires uint32 // tick
	seen    uint32 // bytes of data seen
	total   uint32 // bytes of data in all, 0 until the last fragment came
	bucket  uint16
	next    uint16 // in the bucket, or in the free list
	first   uint16 // chunk of the fragment that waits longest, while held > 0
	last    uint16 // chunk of the fragment that came last
	// The ports and protocol of the first fragment, once opened.
	srcPort, dstPort uint16
	proto            uint8
	used             bool
	opened           bool       // the first fragment has come
	reason           DropReason // why the datagram is refused, DropUnknown if it is not
	count            uint8      // of extents
	held             uint8      // fragments waiting
	chunks           uint16     // that they occupy
	extents          [maxFragments]extent
}

// chunk is the bookkeeping of chunkSize bytes of the store. 8 bytes.
type chunk struct {
	next   uint16 // chunk of the same fragment, or in the free list
	after  uint16 // in a fragment's first chunk: the next fragment's first chunk
	length uint32 // in a fragment's first chunk: bytes of the frame
}

// fragmentShare is what one sender has of the table.
type fragmentShare struct{ datagrams, chunks uint16 }

// fragmentTable follows a worker's incomplete datagrams. It belongs to its
// worker. Datagrams and chunks are counted from 1; 0 is none. The zero value
// refuses every fragment; newFragmentTable returns one that works.
type fragmentTable struct {
	seed      maphash.Seed // random, so that nobody can fill one bucket
	heads     []uint16     // buckets
	datagrams []datagram
	chunks    []chunk
	store     []byte
	shares    []fragmentShare // by fragmentKey.share

	freeDatagram uint16
	freeChunk    uint16
	freeChunks   int
	live         int    // datagrams in use
	hand         uint16 // where victim looks next
	swept        uint32 // tick of the last expiry
	released     packet // the fragment that releaseFragments has in hand
}

// newFragmentTable returns an empty table of the default size.
func newFragmentTable() fragmentTable {
	t := fragmentTable{
		seed:       maphash.MakeSeed(),
		heads:      make([]uint16, buckets),
		datagrams:  make([]datagram, maxDatagrams+1),
		chunks:     make([]chunk, maxChunks+1),
		store:      make([]byte, maxChunks*chunkSize),
		shares:     make([]fragmentShare, numShares),
		freeChunks: maxChunks,
	}
	for i := uint16(maxDatagrams); i > 0; i-- {
		t.datagrams[i].next, t.freeDatagram = t.freeDatagram, i
	}
	for i := uint16(maxChunks); i > 0; i-- {
		t.chunks[i].next, t.freeChunk = t.freeChunk, i
	}
	return t
}

// busy reports whether a datagram waits for its timeout.
func (t *fragmentTable) busy() bool { return t.live != 0 }

// find returns the datagram with a key, or 0.
func (t *fragmentTable) find(k *fragmentKey) uint16 {
	if t.live == 0 {
		return 0
	}
	i := t.heads[t.bucket(k)]
	for i != 0 && t.datagrams[i].key != *k {
		i = t.datagrams[i].next
	}
	return i
}

func (t *fragmentTable) bucket(k *fragmentKey) uint16 {
	return uint16(maphash.Comparable(t.seed, *k) % buckets)
}

// insert takes a free datagram, of which there must be one, for a key.
func (t *fragmentTable) insert(k *fragmentKey, expires uint32) uint16 {
	i := t.freeDatagram
	d := &t.datagrams[i]
	t.freeDatagram = d.next
	b := t.bucket(k)
	*d = datagram{key: *k, expires: expires, bucket: b, next: t.heads[b], used: true}
	t.heads[b] = i
	t.live++
	t.shares[k.share()].datagrams++
	return i
}

// remove frees a datagram in which nothing waits.
func (t *fragmentTable) remove(i uint16) {
	d := &t.datagrams[i]
	at := &t.heads[d.bucket]
	for *at != i {
		at = &t.datagrams[*at].next
	}
	*at = d.next
	d.used = false
	d.next, t.freeDatagram = t.freeDatagram, i
	t.live--
	t.shares[d.key.share()].datagrams--
}

// victim returns a datagram other than except that may make room, or 0: one of
// the share given if own is set, one in which fragments wait if holding is set. The
// hand goes round, so in a flood the oldest leaves first, and a sender that fills
// the table loses the most.
func (t *fragmentTable) victim(share uint32, except uint16, own, holding bool) uint16 {
	for range len(t.datagrams) {
		if t.hand++; int(t.hand) >= len(t.datagrams) {
			t.hand = 1
		}
		d := &t.datagrams[t.hand]
		if d.used && t.hand != except && (!own || d.key.share() == share) && (!holding || d.held != 0) {
			return t.hand
		}
	}
	return 0
}

// chunksFor returns how many chunks n bytes take.
func chunksFor(n int) int { return (n + chunkSize - 1) / chunkSize }

// push stores a frame behind those that wait in datagram i. The caller has seen
// to it that there are chunks enough.
func (t *fragmentTable) push(i uint16, frame []byte) {
	d := &t.datagrams[i]
	first, n := t.freeChunk, chunksFor(len(frame))
	t.chunks[first].after, t.chunks[first].length = 0, uint32(len(frame))
	for c := first; ; c = t.chunks[c].next {
		frame = frame[copy(t.bytes(c), frame):]
		if len(frame) == 0 {
			t.freeChunk, t.chunks[c].next = t.chunks[c].next, 0
			break
		}
	}
	if d.held == 0 {
		d.first = first
	} else {
		t.chunks[d.last].after = first
	}
	d.last = first
	d.held++
	d.chunks += uint16(n)
	t.freeChunks -= n
	t.shares[d.key.share()].chunks += uint16(n)
}

// pop takes out the frame that waits longest in d and copies it to f, which is
// empty, or nil to discard it.
func (t *fragmentTable) pop(d *datagram, f *port.Frame) {
	first := d.first
	left, n := int(t.chunks[first].length), 0
	last := first
	for c := first; c != 0; c = t.chunks[c].next {
		if f != nil {
			f.End += copy(f.Buf[f.End:], t.bytes(c)[:min(left, chunkSize)])
		}
		left -= chunkSize
		last = c
		n++
	}
	d.first = t.chunks[first].after
	d.held--
	d.chunks -= uint16(n)
	t.chunks[last].next, t.freeChunk = t.freeChunk, first
	t.freeChunks += n
	t.shares[d.key.share()].chunks -= uint16(n)
}

// bytes returns a chunk's part of the store.
func (t *fragmentTable) bytes(c uint16) []byte {
	at := (int(c) - 1) * chunkSize
	return t.store[at : at+chunkSize : at+chunkSize]
}

// open records the first fragment: its ports are those of the datagram.
func (d *datagram) open(l *header.Layout, expires uint32) {
	d.proto, d.srcPort, d.dstPort = l.Proto, l.SrcPort, l.DstPort
	d.opened, d.expires = true, expires
}

// complete reports whether every byte of the datagram has been seen.
func (d *datagram) complete() bool { return d.total != 0 && d.seen == d.total }

// add records where a fragment's data lies. It returns DropUnknown, or why the
// fragment is dropped: as an exact repetition alone, in all other cases together
// with its datagram.
//
// RFC 5722 §4 and RFC 8200 §4.5: a datagram with overlapping fragments is
// discarded; an exact duplicate may be ignored instead. IPv4 is treated alike: RFC
// 791 lets the newer data win and RFC 815 the older, so what passes a filter is
// not what arrives (RFC 1858 §4, RFC 3128). A last fragment that ends elsewhere
// than another one, or before data already seen, contradicts the datagram in the
// same way.
func (d *datagram) add(l *header.Layout) DropReason {
	start := uint32(l.FragOffset)
	length := uint32(l.End - dataStart(l))
	end, last := start+length, !l.MoreFragments
	farthest := uint32(0)
	for _, e := range d.extents[:d.count] {
		s, n := uint32(e.start), uint32(e.length)
		if s == start && n == length && last == (d.total == end) {
			return DropFragmentDuplicate
		}
		if start < s+n && s < end {
			return DropFragmentOverlap
		}
		farthest = max(farthest, s+n)
	}
	if last && (d.total != 0 || farthest > end) || !last && d.total != 0 && end > d.total {
		return DropFragmentOverlap
	}
	if d.count == maxFragments {
		return DropFragmentLimit
	}
	if l.IsFirst() {
		if reason := unfollowable(l); reason != DropUnknown {
			return reason
		}
	}
	d.extents[d.count] = extent{uint16(start), uint16(length)}
	d.count++
	d.seen += length
	if last {
		d.total = end
	}
	return DropUnknown
}

// dataStart returns where in the frame the fragment's data begins: behind the
// IPv4 header, or behind the IPv6 fragment header, where in a first fragment more
// extension headers may stand.
func dataStart(l *header.Layout) int32 {
	if l.Version == 6 {
		return l.FragHeader + header.IPv6FragmentLength
	}
	return l.L4
}
