package flowtable

import "sync/atomic"

// SessionSize is the size of a session record in bytes.
const SessionSize = 160

// Session is one connection, both directions: 160 bytes without pointers, in
// memory that every worker shares. What is fixed before Insert (keys, protocol,
// charged port, creation time) is plain; what changes afterwards is atomic. Each
// direction's counters and TCP words lie on cache lines of their own, so two
// workers that each carry one direction do not write to the same line.
//
// Methods that only read may be called by anybody whose Reader is online. A
// Session is never copied.
type Session struct {
	forward  half          // 0: extra = rule
	addr     [4][16]byte   // 32: forward source, destination, reply source, destination
	ports    [4]uint16     // 96: in the order of addr
	decision atomic.Uint64 // 104: see Decision
	vrf      [2]uint16     // 112: by direction
	attr     atomic.Uint32 // 116: protocol | live, dead, leased<<8 | charged port<<16
	member   atomic.Uint32 // 120
	lastSeen atomic.Uint32 // 124: ticks; here because both directions read it
	reply    half          // 128: extra = created; the link of an unused record
}

// half is what one direction of a session writes: 32 bytes.
type half struct {
	bytes   atomic.Uint64
	packets atomic.Uint64
	next    atomic.Uint32 // TCP: end of the highest sequence sent
	ack     atomic.Uint32 // TCP: highest acknowledgement sent
	tcp     atomic.Uint32 // TCP: see tcp.go
	extra   atomic.Uint32 // the session's: see there
}

// Session.attr: protocol, whether the session is live, charged port.
const (
	attrLive  = uint32(1) << 8  // found by Lookup
	attrDead  = uint32(1) << 9  // removed; its record waits for the grace period
	attrLease = uint32(1) << 10 // see SetLeased
	attrPort  = 16
)

func (s *Session) half(d Direction) *half {
	if d == Forward {
		return &s.forward
	}
	return &s.reply
}

// SetKeys gives a session that is not inserted its two keys, which must name the
// same protocol: forward as the first packet arrived, reply as its answers will
// arrive after NAT. The rewrite of a direction is the reverse of the other
// direction's key.
func (s *Session) SetKeys(forward, reply Key) {
	s.addr = [4][16]byte{forward.Src, forward.Dst, reply.Src, reply.Dst}
	s.ports = [4]uint16{forward.SrcPort, forward.DstPort, reply.SrcPort, reply.DstPort}
	s.vrf = [2]uint16{forward.VRF, reply.VRF}
	s.attr.Store(s.attr.Load()&^0xff | uint32(forward.Proto))
}

// Key returns the key of direction d.
func (s *Session) Key(d Direction) Key {
	i := 2 * (d & 1)
	return Key{
		Src: s.addr[i], Dst: s.addr[i+1],
		SrcPort: s.ports[i], DstPort: s.ports[i+1],
		VRF: s.vrf[d&1], Proto: s.Proto(),
	}
}

// Target returns the addresses and ports that a packet of direction d leaves
// with: the other direction's key, reversed. The addresses belong to the record
// and must not be written.
func (s *Session) Target(d Direction) (src, dst *[16]byte, srcPort, dstPort uint16) {
	i := 2 * (1 - d&1)
	return &s.addr[i+1], &s.addr[i], s.ports[i+1], s.ports[i]
}

// holds reports whether s is live and k is its key of direction d. Only once it
// is known to be live may its plain fields be read: until then its owner may
// still be writing them.
func (s *Session) holds(k *Key, d Direction) bool {
	attr := s.attr.Load()
	if attr&(attrLive|attrDead|0xff) != attrLive|uint32(k.Proto) {
		return false
	}
	i := 2 * (d & 1)
	return s.addr[i] == k.Src && s.addr[i+1] == k.Dst &&
		s.ports[i] == k.SrcPort && s.ports[i+1] == k.DstPort && s.vrf[d&1] == k.VRF
}

// Proto returns the IP protocol number.
func (s *Session) Proto() uint8 { return uint8(s.attr.Load()) }

// Live reports whether the session is in the table: inserted and not removed.
func (s *Session) Live() bool { return s.attr.Load()&(attrLive|attrDead) == attrLive }

// Port returns the attachment that the session is charged to, 0 for none.
func (s *Session) Port() uint16 { return uint16(s.attr.Load() >> attrPort) }

// SetPort charges the session to an attachment's quota. Before Insert only.
func (s *Session) SetPort(port uint16) {
	s.attr.Store(s.attr.Load()&(1<<attrPort-1) | uint32(port)<<attrPort)
}

// Leased reports whether the session uses a port of a shared address as its source
// after NAT, which whoever removes the session must give back: the reply key's
// destination.
func (s *Session) Leased() bool { return s.attr.Load()&attrLease != 0 }

// SetLeased notes that the session uses such a port. Before Insert only.
func (s *Session) SetLeased() { s.attr.Store(s.attr.Load() | attrLease) }

// Member returns the ECMP or floating IP member that serves the session, 0 for none.
func (s *Session) Member() uint32 { return s.member.Load() }

// SetMember records the member that serves the session.
func (s *Session) SetMember(member uint32) { s.member.Store(member) }

// Rule returns the number of the policy rule that let the session pass.
func (s *Session) Rule() uint32 { return s.forward.extra.Load() }

// SetRule records the policy rule that decided, at first or on a newer epoch.
func (s *Session) SetRule(rule uint32) { s.forward.extra.Store(rule) }

// Begin stamps a new session with the time of its first packet, in ticks of
// 100 ms. Before Insert only.
func (s *Session) Begin(now uint32) {
	s.lastSeen.Store(now)
	s.reply.extra.Store(now)
}

// Seen notes a packet of the connection at now, in ticks. It is the only thing
// that keeps a session from ageing. An ICMP error about the connection is not
// one of its packets and must not be reported here (RFC 5508 REQ-6).
func (s *Session) Seen(now uint32) {
	if s.lastSeen.Load() != now { // at most one write per tick to the shared line
		s.lastSeen.Store(now)
	}
}

// LastSeen returns the tick of the latest packet of either direction.
func (s *Session) LastSeen() uint32 { return s.lastSeen.Load() }

// Created returns the tick of the first packet. After Remove the field belongs
// to the table: read it before.
func (s *Session) Created() uint32 { return s.reply.extra.Load() }

// Age returns how many ticks before now the session was created.
func (s *Session) Age(now uint32) uint32 { return since(now, s.Created()) }

// Idle returns how many ticks before now the latest packet was seen.
func (s *Session) Idle(now uint32) uint32 { return since(now, s.LastSeen()) }

// since is now-then, and 0 where another worker's clock is ahead.
func since(now, then uint32) uint32 {
	if d := int32(now - then); d > 0 {
		return uint32(d)
	}
	return 0
}

// Count adds packets of direction d and their bytes to its counters.
func (s *Session) Count(d Direction, bytes, packets uint64) {
	h := s.half(d)
	h.bytes.Add(bytes)
	h.packets.Add(packets)
}

// Counters returns the bytes and packets seen in direction d.
func (s *Session) Counters(d Direction) (bytes, packets uint64) {
	h := s.half(d)
	return h.bytes.Load(), h.packets.Load()
}

// EpochMask is the range of an epoch in a Decision: 24 bits.
const EpochMask = 1<<24 - 1

// Decision is what the slow path found for a session: the epoch of the
// configuration it looked at (24 bits, 0 = never decided) and each direction's
// next hop (20 bits). One word, so that no reader sees half of a change.
type Decision uint64

// NewDecision packs a decision. Only the low 24 bits of epoch and the low 20
// bits of the next hops are kept.
func NewDecision(epoch, forward, reply uint32) Decision {
	const hop = 1<<20 - 1
	return Decision(uint64(epoch&EpochMask)<<40 | uint64(forward&hop)<<20 | uint64(reply&hop))
}

// Epoch returns the configuration's epoch, 0 if nothing was decided yet.
func (d Decision) Epoch() uint32 { return uint32(d >> 40) }

// NextHop returns the next hop of direction dir.
func (d Decision) NextHop(dir Direction) uint32 {
	return uint32(d>>(20*(1-dir&1))) & (1<<20 - 1)
}

// Decision returns the latest decision.
func (s *Session) Decision() Decision { return Decision(s.decision.Load()) }

// SetDecision records a decision.
func (s *Session) SetDecision(epoch, forward, reply uint32) {
	s.decision.Store(uint64(NewDecision(epoch, forward, reply)))
}

// SwapDecision records a decision unless another worker has replaced old.
func (s *Session) SwapDecision(old, decision Decision) bool {
	return s.decision.CompareAndSwap(uint64(old), uint64(decision))
}
