package flowtable

import (
	"errors"
	"sync/atomic"
	"time"
)

// Tick is the unit of session time.
const Tick = 100 * time.Millisecond

// Timeouts says how long a session may be idle before it is removed. Zero means
// the default, which is each RFC's recommended value or floor.
type Timeouts struct {
	UDPUnreplied   time.Duration // 300 s; RFC 4787 REQ-5: at least 120 s
	UDPStream      time.Duration // 300 s; RFC 4787 REQ-5: at least 120 s
	TCPEstablished time.Duration // 7440 s; RFC 5382 REQ-5: at least 7440 s (2 h 4 min)
	TCPTransitory  time.Duration // 240 s; RFC 5382 REQ-5: at least 240 s; opening and closing connections
	ICMP           time.Duration // 60 s; RFC 5508 REQ-2: at least 60 s
	Other          time.Duration // 300 s; protocols that no RFC speaks of
}

// withDefaults fills in what is zero.
func (t Timeouts) withDefaults() Timeouts {
	fill := func(d *time.Duration, seconds time.Duration) {
		if *d == 0 {
			*d = seconds * time.Second
		}
	}
	fill(&t.UDPUnreplied, 300)
	fill(&t.UDPStream, 300)
	fill(&t.TCPEstablished, 7440)
	fill(&t.TCPTransitory, 240)
	fill(&t.ICMP, 60)
	fill(&t.Other, 300)
	return t
}

// Check returns an error that names the first timeout below its RFC's floor, for
// configuration that must keep to them. The table itself takes any value.
func (t Timeouts) Check() error {
	t = t.withDefaults()
	for _, f := range []struct {
		name         string
		value, floor time.Duration
		source       string
	}{
		{"UDPUnreplied", t.UDPUnreplied, 120 * time.Second, "RFC 4787 REQ-5"},
		{"UDPStream", t.UDPStream, 120 * time.Second, "RFC 4787 REQ-5"},
		{"TCPEstablished", t.TCPEstablished, 7440 * time.Second, "RFC 5382 REQ-5"},
		{"TCPTransitory", t.TCPTransitory, 240 * time.Second, "RFC 5382 REQ-5"},
		{"ICMP", t.ICMP, 60 * time.Second, "RFC 5508 REQ-2"},
		{"Other", t.Other, Tick, "one tick of the clock"},
	} {
		if f.value < f.floor {
			return errors.New("timeouts: " + f.name + " is " + f.value.String() +
				": want at least " + f.floor.String() + " (" + f.source + ")")
		}
	}
	return nil
}

// Under pressure, when the table is more than pressureNum/pressureDen full,
// sessions that no endpoint would miss go sooner: connections that are over
// after pressureClosed, and those that were never answered after
// pressureUnreplied (longer than RFC 6146's 6 s for an incoming SYN). A session
// with traffic both ways keeps its full time however full the table is.
const (
	pressureNum, pressureDen = 4, 5
	pressureClosed           = 10 * time.Second
	pressureUnreplied        = 30 * time.Second
)

// staleEpochs is how many epochs old a decision may get. The ager clears older
// ones, so that a 24-bit epoch that comes round again is never taken for them.
const staleEpochs = 1 << 22

// Protocols that statistics tell apart.
const (
	OtherProtocol = iota
	TCP
	UDP
	ICMP
	protocols
)

// Census counts live sessions by protocol and state as the hand passed them.
type Census [protocols][states]uint64

// Stats describes the table. Counters only grow; Census is as old as the ager's
// last full turn.
type Stats struct {
	Capacity, Live int
	MemoryBytes    int
	Inserted       uint64 // sessions ever
	Removed        uint64 // of those, removed by anybody
	Expired        uint64 // of those, removed by the ager
	Full           uint64 // new sessions refused for want of room
	Pressure       bool   // unanswered and finished sessions age faster
	Census         Census
}

// Ager removes idle sessions: a hand that walks the table a few records at a
// time. It belongs to one control goroutine; only Stats and SetEpoch may be called from others.
type Ager struct {
	table    *Table
	reader   *Reader
	limits   [2]limits // by pressure
	lost     func(*Session) bool
	expired  func(*Session)
	hand     uint32
	tally    Census
	census   atomic.Pointer[Census]
	removals atomic.Uint64
	epoch    atomic.Uint32
}

// limits are the idle ticks after which a session goes.
type limits [protocols][states]uint32

// NewAger returns an ager for t. Both functions may be nil, are called on the
// sweeping goroutine and must not keep the Session. lost is asked about sessions
// that were last decided in an older epoch: true removes one before its time.
// expired is called for each session that is removed, after the last Lookup could
// find it and before its record is used again.
func NewAger(t *Table, timeouts Timeouts, lost func(*Session) bool, expired func(*Session)) *Ager {
	a := &Ager{table: t, reader: t.NewReader(), lost: lost, expired: expired}
	a.reader.Offline()
	a.census.Store(&Census{})
	timeouts = timeouts.withDefaults()
	a.limits = [2]limits{timeouts.limits(false), timeouts.limits(true)}
	return a
}

// Close ends the ager's claim on the table's records.
func (a *Ager) Close() { a.reader.Close() }

// SetEpoch tells the ager the configuration's current epoch (24 bits count).
func (a *Ager) SetEpoch(epoch uint32) { a.epoch.Store(epoch & EpochMask) }

// Sweep moves the hand over at most budget records at time now, in ticks,
// removes those that were idle too long, and makes records usable again whose
// grace period is over. It returns how many sessions it removed. Every record
// should be passed at least once in some ten seconds: a session outlives its
// timeout by up to one turn.
func (a *Ager) Sweep(now uint32, budget int) int {
	t := a.table
	limits := &a.limits[0]
	if t.underPressure() {
		limits = &a.limits[1]
	}
	end := uint32(t.header.fresh.Load())
	removed := 0
	a.reader.Online()
	for n := min(budget, int(end)); n > 0; n-- {
		if a.hand >= end {
			a.turn()
		}
		a.hand++
		if a.visit(a.hand, now, limits) {
			removed++
		}
	}
	a.reader.Offline()
	if a.hand >= end {
		a.turn()
	}
	a.removals.Add(uint64(removed))
	t.Reclaim(budget)
	return removed
}

// turn publishes what the hand counted and sends it round again.
func (a *Ager) turn() {
	seen := a.tally
	a.census.Store(&seen)
	a.hand, a.tally = 0, Census{}
}

// visit looks at one record and reports whether it removed the session.
func (a *Ager) visit(index, now uint32, limits *limits) bool {
	s := &a.table.sessions[index]
	if !s.Live() {
		return false
	}
	protocol, state := protocolOf(s.Proto()), s.State()
	d, epoch := s.Decision(), a.epoch.Load()
	over := s.Idle(now) > limits[protocol][state] || a.lost != nil && d.Epoch() != epoch && a.lost(s)
	if over && a.table.withdraw(Ref(index<<1)) {
		if a.expired != nil {
			a.expired(s)
		}
		a.table.header.removed.Add(1)
		a.table.retire(index, index)
		return true
	}
	a.tally[protocol][state]++
	if old := d.Epoch(); old != 0 && (epoch-old)&EpochMask > staleEpochs {
		s.SwapDecision(d, 0) // decided anew by its next packet
	}
	return false
}

// Stats describes the table now. Any goroutine may call it.
func (a *Ager) Stats() Stats {
	h := a.table.header
	s := Stats{
		Capacity:    a.table.Capacity(),
		MemoryBytes: a.table.Memory(),
		Expired:     a.removals.Load(),
		Full:        h.full.Load(),
		Pressure:    a.table.underPressure(),
		Census:      *a.census.Load(),
	}
	s.Inserted, s.Removed = a.table.totals()
	s.Live = int(s.Inserted - s.Removed)
	return s
}

// underPressure reports whether the table is filling up.
func (t *Table) underPressure() bool {
	return uint64(t.Live())*pressureDen > uint64(t.Capacity())*pressureNum
}

func protocolOf(proto uint8) int {
	switch proto {
	case protoTCP:
		return TCP
	case protoUDP:
		return UDP
	case protoICMP, protoICMPv6:
		return ICMP
	}
	return OtherProtocol
}

// limits spreads the timeouts over protocols and states, in ticks.
func (t Timeouts) limits(pressure bool) (l limits) {
	transitory, unreplied, closed := t.TCPTransitory, t.UDPUnreplied, t.TCPTransitory
	opening := t.TCPTransitory
	if pressure {
		closed = min(closed, pressureClosed)
		opening, unreplied = min(opening, pressureUnreplied), min(unreplied, pressureUnreplied)
	}
	// RFC 5382 section 5: the closing phase begins when both ends have sent FIN;
	// with one FIN data may still flow the other way, so that is established.
	l[TCP] = toTicks(opening, transitory, opening, transitory,
		t.TCPEstablished, t.TCPEstablished, transitory, closed, closed)
	for state := range states {
		l[UDP][state] = ticks(t.UDPStream)
		l[ICMP][state] = ticks(t.ICMP)
		l[OtherProtocol][state] = ticks(t.Other)
	}
	l[UDP][Unreplied] = ticks(unreplied)
	return l
}

// toTicks converts one duration per state.
func toTicks(byState ...time.Duration) (l [states]uint32) {
	for state, d := range byState {
		l[state] = ticks(d)
	}
	return l
}

// ticks rounds up, so that nothing goes before its time.
func ticks(d time.Duration) uint32 { return uint32(min((d+Tick-1)/Tick, 1<<31-1)) }
