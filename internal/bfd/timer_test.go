package bfd

import (
	"testing"
	"time"
)

// gaps runs the session while the peer is heard every 50 ms, and returns the time
// between its packets.
func (r *rig) gaps(p packet, d time.Duration) (list []time.Duration) {
	var last time.Time
	for end := r.now.Add(d); r.now.Before(end); {
		_, at := r.run(50 * ms)
		for _, t := range at {
			if !last.IsZero() {
				list = append(list, t.Sub(last))
			}
			last = t
		}
		r.hear(p)
	}
	return list
}

// within checks that gaps fill a range: none outside, and some near both ends.
func within(t *testing.T, gaps []time.Duration, least, most time.Duration) {
	t.Helper()
	if len(gaps) < 50 {
		t.Fatalf("%d gaps only", len(gaps))
	}
	low, high, slack := most, least, (most-least)/5
	for _, g := range gaps {
		low, high = min(low, g), max(high, g)
	}
	if low < least || high > most || low > least+slack || high < most-slack {
		t.Errorf("gaps of %v to %v; want %v to %v", low, high, least, most)
	}
}

// RFC 5880 §6.8.7: each interval is reduced by 0 to 25 %
func TestJitter(t *testing.T) {
	within(t, up(t, usual).gaps(from(Up), time.Minute), 225*ms, 300*ms)
}

// RFC 5880 §6.8.7: with a multiplier of 1 the interval is 75 to 90 %
func TestJitterOfMultiplierOne(t *testing.T) {
	within(t, up(t, timing{300 * ms, 300 * ms, 1}).gaps(from(Up), time.Minute), 225*ms, 270*ms)
}

// RFC 5880 §6.8.2: the slower of what we want and what the peer takes
func TestSlowerSideCounts(t *testing.T) {
	p := from(Up)
	p.minRx = 800 * ms
	within(t, up(t, usual).gaps(p, 2*time.Minute), 600*ms, 800*ms)
}

// RFC 5880 §6.8.3: at least one second between packets while not Up
func TestSlowWhileDown(t *testing.T) {
	r := newRig(t, usual)
	_, at := r.run(3 * time.Minute)
	var gaps []time.Duration
	for i := range at[1:] {
		gaps = append(gaps, at[i+1].Sub(at[i]))
	}
	within(t, gaps, 750*ms, time.Second)
}

// RFC 5880 §6.8.4: Down exactly when the peer's multiplier times the agreed interval has passed
// RFC 5880 §6.8.1: then the peer's discriminator is forgotten
func TestDetectionTime(t *testing.T) {
	for _, c := range []struct {
		name          string
		rx, minTx     time.Duration
		mult          uint8
		wantDetection time.Duration
	}{
		{"the peer sends less often than we take", 300 * ms, 500 * ms, 4, 2 * time.Second},
		{"we take less often than the peer would send", 300 * ms, 10 * ms, 5, 1500 * ms},
		{"multiplier of one", 100 * ms, 100 * ms, 1, 100 * ms},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := up(t, timing{300 * ms, c.rx, 3})
			p := from(Up)
			p.minTx, p.mult = c.minTx, c.mult
			r.hear(p)
			r.run(c.wantDetection - 1)
			if r.state != Up {
				t.Fatalf("%v too early", r.state)
			}
			sent, _ := r.run(1)
			if r.state != Down || r.diag != TimeExpired || r.remoteDiscr != 0 {
				t.Fatalf("%v, %v, discriminator %d", r.state, r.diag, r.remoteDiscr)
			}
			if len(sent) != 1 || sent[0].state != Down || sent[0].diag != TimeExpired || sent[0].your != 0 || sent[0].minTx != time.Second {
				t.Errorf("sent %+v", sent)
			}
		})
	}
}

// RFC 5880 §6.8.4: Init ends, too, if the peer falls silent
func TestDetectionTimeInInit(t *testing.T) {
	r := newRig(t, usual)
	r.run(0)
	r.hear(from(Down))
	r.run(900*ms - 1)
	if r.state != Init {
		t.Fatal(r.state)
	}
	if r.run(1); r.state != Down || r.diag != TimeExpired {
		t.Error(r.state, r.diag)
	}
}

// RFC 5880 §6.8.1: a peer that is heard in Down and then no more is forgotten, without a change of state
func TestForgottenWhileDown(t *testing.T) {
	r := newRig(t, usual)
	r.run(0)
	r.hear(from(Up))
	if r.remoteDiscr != 9 || r.state != Down {
		t.Fatal(r.remoteDiscr, r.state)
	}
	r.run(900 * ms)
	if r.remoteDiscr != 0 || r.state != Down || r.diag != NoDiagnostic || r.since != epoch {
		t.Error(r.remoteDiscr, r.state, r.diag, r.since)
	}
}

// RFC 5880 §6.8.7: a peer whose Required Min RX Interval is 0 gets no periodic packets, but answers to its polls
func TestPeerTakesNothing(t *testing.T) {
	r := up(t, usual)
	p := from(Up)
	p.minRx = 0
	for range 20 {
		r.hear(p)
		if sent, _ := r.run(500 * ms); sent != nil {
			t.Fatalf("sent %+v", sent)
		}
	}
	p.poll = true
	if reply := r.hear(p); reply == nil || !reply.final {
		t.Errorf("answered %+v", reply)
	}
}

// RFC 5880 §6.6: a peer in Demand mode gets no periodic packets while both are Up, and still has to send them
// RFC 5880 §6.8.7: a poll sequence goes to it all the same
func TestPeerInDemandMode(t *testing.T) {
	r := up(t, usual)
	p := from(Up)
	p.demand = true
	r.hear(p)
	for range 10 {
		if sent, _ := r.run(500 * ms); sent != nil {
			t.Fatalf("sent %+v", sent)
		}
		r.hear(p)
	}
	r.configure(timing{300 * ms, 400 * ms, 3})
	sent, _ := r.run(100 * ms)
	if len(sent) != 1 || !sent[0].poll || sent[0].demand {
		t.Fatalf("sent %+v; want a poll", sent)
	}
	p.final = true
	r.hear(p)
	p.final = false
	if sent, _ := r.run(800 * ms); sent != nil || r.state != Up {
		t.Fatalf("sent %+v, %v", sent, r.state)
	}
	p.demand = false
	r.hear(p)
	if sent, _ := r.run(300 * ms); len(sent) == 0 {
		t.Error("nothing sent after the end of Demand mode")
	}
	p.demand = true
	r.hear(p)
	if r.run(1200 * ms); r.state != Down || r.diag != TimeExpired {
		t.Errorf("%v, %v; want Down, since our side is asynchronous", r.state, r.diag)
	}
}

// RFC 5880 §6.8.3: a lower Required Min RX Interval of the peer is honoured from the packet sent last, at once if that is long ago
func TestPeerTakesMore(t *testing.T) {
	for _, ago := range []time.Duration{time.Second, 5 * time.Second} {
		r := up(t, usual)
		p := from(Up)
		p.minRx, p.minTx = 10*time.Second, 10*time.Second
		r.hear(p)
		r.run(r.due.Sub(r.now))
		last := r.now
		r.run(ago)
		p.minRx = 2 * time.Second
		r.hear(p)
		want := last.Add(2 * time.Second)
		if ago > 2*time.Second {
			want = r.now
		}
		if at, ok := r.next(); !ok || at.After(want) {
			t.Errorf("%v after the last packet the next is due at %v; want %v", ago, at, want)
		}
		if sent, _ := r.run(want.Sub(r.now)); len(sent) != 1 {
			t.Errorf("sent %+v; want one packet", sent)
		}
	}
}
