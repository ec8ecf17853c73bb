package bfd

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

const ms = time.Millisecond

var (
	epoch = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	usual = timing{tx: 300 * ms, rx: 300 * ms, mult: 3}
)

// rig is a session with a clock that the test moves.
type rig struct {
	*testing.T
	*session
	now time.Time
}

func newRig(t *testing.T, want timing) *rig {
	seed := rand.New(rand.NewPCG(1, 2))
	return &rig{t, newSession(epoch, 7, want, seed.Int64N), epoch}
}

// from is a packet of a peer with usual timing.
func from(state State) packet {
	return packet{state: state, mult: 3, my: 9, your: 7, minTx: 300 * ms, minRx: 300 * ms}
}

// hear receives a packet and returns the answer, if any.
func (r *rig) hear(p packet) *packet {
	r.Helper()
	reply, ok, why := r.receive(r.now, p)
	if why != discardNone {
		r.Fatalf("%+v discarded: %v", p, why)
	}
	if !ok {
		return nil
	}
	return &reply
}

// run moves the clock on and returns the packets sent, each with its time.
func (r *rig) run(d time.Duration) (sent []packet, at []time.Time) {
	end := r.now.Add(d)
	for {
		next, ok := r.next()
		if !ok || next.After(end) {
			r.now = end
			return sent, at
		}
		if next.After(r.now) {
			r.now = next
		}
		if p, ok := r.tick(r.now); ok {
			sent, at = append(sent, p), append(at, r.now)
		}
	}
}

// up brings the session Up, its first poll sequence done.
func up(t *testing.T, want timing) *rig {
	t.Helper()
	r := newRig(t, want)
	r.run(0)
	r.hear(from(Down))
	r.hear(from(Up))
	r.finish(from(Up))
	if r.state != Up {
		t.Fatalf("%v; want Up", r.state)
	}
	return r
}

// finish lets the peer, which sends p, answer the poll that runs.
func (r *rig) finish(p packet) {
	r.Helper()
	for range 20 {
		if !r.polling {
			return
		}
		if r.polled {
			p.final = true
			r.hear(p)
			continue
		}
		r.hear(p)
		r.run(100 * ms)
	}
	r.Fatal("the poll sequence never ends")
}

// RFC 5880 §6.8.1: a session begins Down with a discriminator and no knowledge of the peer
func TestFirstPacket(t *testing.T) {
	r := newRig(t, usual)
	sent, _ := r.run(0)
	want := packet{state: Down, mult: 3, my: 7, minTx: time.Second, minRx: 300 * ms}
	if len(sent) != 1 || sent[0] != want {
		t.Fatalf("sent %+v; want %+v", sent, want)
	}
}

// RFC 5880 §6.2: every state with every state received
// RFC 5880 §6.8.6: every transition, and the diagnostic that goes with it
func TestTransitions(t *testing.T) {
	for _, c := range []struct {
		have, received, want State
		diag                 Diagnostic
	}{
		{Down, AdminDown, Down, NoDiagnostic},
		{Down, Down, Init, NoDiagnostic},
		{Down, Init, Up, NoDiagnostic},
		{Down, Up, Down, NoDiagnostic},
		{Init, AdminDown, Down, NeighborDown},
		{Init, Down, Init, NoDiagnostic},
		{Init, Init, Up, NoDiagnostic},
		{Init, Up, Up, NoDiagnostic},
		{Up, AdminDown, Down, NeighborDown},
		{Up, Down, Down, NeighborDown},
		{Up, Init, Up, NoDiagnostic},
		{Up, Up, Up, NoDiagnostic},
	} {
		t.Run(c.have.String()+" hears "+c.received.String(), func(t *testing.T) {
			r := newRig(t, usual)
			r.run(0)
			if c.have != Down {
				r.hear(from(Down))
			}
			if c.have == Up {
				r.hear(from(Init))
			}
			reply := r.hear(from(c.received))
			if r.state != c.want || r.diag != c.diag {
				t.Errorf("%v, %v; want %v, %v", r.state, r.diag, c.want, c.diag)
			}
			// RFC 5880 §6.8.7: a change of state is sent at once, and without Poll.
			if changed := c.have != c.want; (reply != nil) != changed || changed && (reply.state != c.want || reply.poll) {
				t.Errorf("answered %+v", reply)
			}
		})
	}
}

// RFC 5880 §6.8.6: a packet with the A bit changes nothing where no authentication is in use
func TestAuthenticationIsDiscarded(t *testing.T) {
	r := up(t, usual)
	before := *r.session
	p := from(Down)
	p.auth, p.my, p.poll = true, 99, true
	if _, ok, why := r.receive(r.now.Add(ms), p); ok || why != discardAuthentication {
		t.Errorf("%v, %v", ok, why)
	}
	if r.heard != before.heard || r.state != Up || r.remoteDiscr != 9 {
		t.Errorf("%+v", r.session)
	}
}

// RFC 5880 §6.8.6: a session that is AdminDown answers nothing
// RFC 5880 §6.8.16: the peer is told of AdminDown, with a diagnostic
func TestAdminDown(t *testing.T) {
	r := up(t, usual)
	if p := r.close(r.now); p.state != AdminDown || p.diag != AdministrativeDown || p.your != 9 {
		t.Errorf("sent %+v", p)
	}
	for _, state := range []State{AdminDown, Down, Init, Up} {
		if _, ok, why := r.receive(r.now, from(state)); ok || why != discardAdminDown || r.state != AdminDown {
			t.Errorf("%v: %v, %v, %v", state, ok, why, r.state)
		}
	}
	if sent, _ := r.run(10 * time.Second); sent != nil || r.state != AdminDown {
		t.Errorf("sent %+v, %v", sent, r.state)
	}
}

// RFC 5880 §6.8.6: Your Discriminator alone selects, else the addresses, and only in Down or AdminDown
// RFC 5881 §5: a neighbour's packet with another TTL than 255 is discarded
// RFC 5883 §5: packets over several hops have a port and a session of their own
func TestDemultiplex(t *testing.T) {
	var tab table
	add := func(discr uint32, p Peer, link uint32) *member {
		p.Name = "peer"
		p = p.complete()
		m := &member{peer: p, session: newSession(epoch, discr, usual, rand.Int64N)}
		m.path = path{p.Remote.WithZone(""), p.Local.WithZone(""), link, p.Multihop}
		tab.add(m)
		return m
	}
	addr := netip.MustParseAddr
	near := add(1, Peer{Local: addr("10.0.0.1"), Remote: addr("10.0.0.2")}, 0)
	far := add(2, Peer{Local: addr("10.0.0.1"), Remote: addr("10.0.0.2"), Multihop: true, MinTTL: 250}, 0)
	link := add(3, Peer{Local: addr("fe80::1%a"), Remote: addr("fe80::2%a")}, 5)
	v4 := arrival{remote: addr("10.0.0.2"), local: addr("10.0.0.1"), link: 4, ttl: 255}
	multi := v4
	multi.multihop = true
	v6 := arrival{remote: addr("fe80::2"), local: addr("fe80::1"), link: 5, ttl: 255}
	with := func(a arrival, change func(*arrival)) arrival { change(&a); return a }
	for _, c := range []struct {
		name  string
		your  uint32
		state State
		a     arrival
		want  *member
		why   discard
	}{
		{"by discriminator", 1, Up, v4, near, discardNone},
		{"unknown discriminator", 8, Up, v4, nil, discardYourDiscriminator},
		{"unknown discriminator in Down", 8, Down, v4, nil, discardYourDiscriminator},
		{"no discriminator in Up", 0, Up, v4, nil, discardState},
		{"no discriminator in Init", 0, Init, v4, nil, discardState},
		{"state before session", 0, Up, with(v4, func(a *arrival) { a.remote = addr("10.0.0.9") }), nil, discardState},
		{"by addresses in Down", 0, Down, v4, near, discardNone},
		{"by addresses in AdminDown", 0, AdminDown, v4, near, discardNone},
		{"stranger", 0, Down, with(v4, func(a *arrival) { a.remote = addr("10.0.0.9") }), nil, discardNoSession},
		{"to another address", 0, Down, with(v4, func(a *arrival) { a.local = addr("10.0.0.9") }), nil, discardNoSession},
		{"stranger with the discriminator", 1, Up, with(v4, func(a *arrival) { a.remote = addr("10.0.0.9") }), nil, discardAddress},
		{"discriminator by the other port", 1, Up, multi, nil, discardAddress},
		{"by addresses, multihop", 0, Down, multi, far, discardNone},
		{"by discriminator, multihop", 2, Up, multi, far, discardNone},
		{"neighbour's TTL", 1, Up, with(v4, func(a *arrival) { a.ttl = 254 }), nil, discardTTL},
		{"neighbour's TTL unknown", 0, Down, with(v4, func(a *arrival) { a.ttl = -1 }), nil, discardTTL},
		{"just near enough", 2, Up, with(multi, func(a *arrival) { a.ttl = 250 }), far, discardNone},
		{"too far", 2, Up, with(multi, func(a *arrival) { a.ttl = 249 }), nil, discardTTL},
		{"link-local", 0, Down, v6, link, discardNone},
		{"link-local on another link", 0, Down, with(v6, func(a *arrival) { a.link = 6 }), nil, discardNoSession},
		{"hop limit", 3, Up, with(v6, func(a *arrival) { a.ttl = 254 }), nil, discardTTL},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := from(c.state)
			p.your = c.your
			m, why := tab.find(p, c.a)
			if m != c.want || why != c.why {
				t.Errorf("%v, %v; want %v, %v", m, why, c.want, c.why)
			}
		})
	}
}
