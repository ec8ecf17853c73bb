package bfd

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// flying is a packet on its way.
type flying struct {
	at time.Time
	to int
	p  packet
}

// world is two sessions and the link between them, which loses, doubles and
// overtakes, under one clock.
type world struct {
	*rapid.T
	random *rand.Rand
	now    time.Time
	ends   [2]*session
	air    []flying
	loss   [2]int           // per cent, of packets to each end
	twice  int              // per cent
	delay  [2]time.Duration // least and most
	// What an observer notes of each end: when it was last reached, and the detection
	// time that follows from the packet and from the receive interval in use, which
	// poll_test.go holds to its rules.
	reached [2]time.Time
	limit   [2]time.Duration
	state   [2]State
}

func newWorld(t *rapid.T) *world {
	w := &world{T: t, now: epoch, random: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))}
	for i := range w.ends {
		w.ends[i] = newSession(epoch, uint32(10+i), drawTiming(t), w.random.Int64N)
		w.state[i] = Down
	}
	w.delay = [2]time.Duration{0, time.Duration(rapid.IntRange(0, 9).Draw(t, "delay")) * ms}
	return w
}

func drawTiming(t *rapid.T) timing {
	interval := rapid.SampledFrom([]time.Duration{50 * ms, 100 * ms, 300 * ms, time.Second, 2 * time.Second})
	return timing{interval.Draw(t, "tx"), interval.Draw(t, "rx"), uint8(rapid.IntRange(1, 5).Draw(t, "mult"))}
}

// send lets the link do what it does with a packet from an end.
func (w *world) send(from int, p packet) {
	if p.poll && p.final {
		w.Fatalf("end %d sends Poll and Final in one packet", from)
	}
	copies := 1
	if w.random.IntN(100) < w.twice {
		copies = 2
	}
	for range copies {
		if w.random.IntN(100) >= w.loss[1-from] {
			after := w.delay[0] + time.Duration(w.random.Int64N(int64(w.delay[1]-w.delay[0])+1))
			w.air = append(w.air, flying{w.now.Add(after), 1 - from, p})
		}
	}
}

// next takes the earliest packet out of the air, if it arrives by end.
func (w *world) next(end time.Time) (f flying, ok bool) {
	best := -1
	for i, f := range w.air {
		if !f.at.After(end) && (best < 0 || f.at.Before(w.air[best].at)) {
			best = i
		}
	}
	if best < 0 {
		return flying{}, false
	}
	f = w.air[best]
	w.air = append(w.air[:best], w.air[best+1:]...)
	return f, true
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for {
		at, who := end, -1
		for i, s := range w.ends {
			if t, ok := s.next(); ok && t.Before(at) {
				at, who = t, i
			}
		}
		if f, ok := w.next(at); ok {
			w.now = later(w.now, f.at)
			w.arrive(f)
			continue
		}
		if who < 0 {
			w.now = end
			return
		}
		w.now = later(w.now, at)
		if p, ok := w.ends[who].tick(w.now); ok {
			w.send(who, p)
		}
		w.judge(who, nil)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (w *world) arrive(f flying) {
	s := w.ends[f.to]
	// What the table would have done.
	if f.p.your != 0 && f.p.your != s.discr || f.p.your == 0 && f.p.state != Down && f.p.state != AdminDown {
		return
	}
	reply, ok, why := s.receive(w.now, f.p)
	if ok {
		w.send(f.to, reply)
	}
	if why == discardNone {
		w.judge(f.to, &f.p)
	}
}

// judge holds an end to the rules of detection (RFC 5880 §6.8.4), after a packet or
// after a tick.
func (w *world) judge(i int, p *packet) {
	s := w.ends[i]
	was := w.state[i]
	w.state[i] = s.state
	silent := w.now.Sub(w.reached[i])
	if p != nil {
		w.reached[i] = w.now
		w.limit[i] = time.Duration(p.mult) * max(s.usedRx, p.minTx)
		return
	}
	timedOut := was >= Init && s.state == Down
	if timedOut != (was >= Init && silent >= w.limit[i]) {
		w.Fatalf("end %d was %v and is %v (%v), silent for %v of %v", i, was, s.state, s.diag, silent, w.limit[i])
	}
	if timedOut && silent != w.limit[i] {
		w.Fatalf("end %d noticed after %v instead of %v", i, silent, w.limit[i])
	}
}

// settle is longer than any two ends need to agree, with packets that may still fly.
const settle = 60 * time.Second

// RFC 5880 §6.2: over a link that loses, doubles and overtakes, both ends agree once it works, and once it does not
// RFC 5880 §6.8.4: the detection time is neither exceeded nor undercut
func TestTwoEndsAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 6).Draw(t, "phases") {
			w.twice = rapid.IntRange(0, 50).Draw(t, "twice")
			w.loss[0], w.loss[1] = rapid.IntRange(0, 100).Draw(t, "loss to 0"), rapid.IntRange(0, 100).Draw(t, "loss to 1")
			w.run(time.Duration(rapid.IntRange(0, 20000).Draw(t, "ms")) * ms)
		}
		// A way that varies by more than the 10 % which jitter leaves may end a session
		// whose multiplier is 1, and rightly.
		w.loss, w.delay[0] = [2]int{}, w.delay[1]
		w.run(settle)
		if w.state != [2]State{Up, Up} {
			t.Fatalf("the link works, and the ends are %v", w.state)
		}
		for i, s := range w.ends {
			if s.polling || s.minTx != s.want.tx || s.usedTx != s.want.tx || s.usedRx != s.want.rx {
				t.Fatalf("end %d has not settled: %+v", i, *s)
			}
		}
		// One direction alone has to be enough for both to notice.
		w.loss[rapid.IntRange(0, 1).Draw(t, "dead direction")] = 100
		w.run(settle)
		if w.state[0] == Up || w.state[1] == Up {
			t.Fatalf("the link is dead in one direction, and the ends are %v", w.state)
		}
	})
}

// RFC 5880 §6.8.3: while nothing is lost, no change of intervals or multiplier on either side ends the session
func TestChangesKeepTheSession(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.delay = [2]time.Duration{2 * ms, 2 * ms}
		w.run(settle)
		since := [2]time.Time{w.ends[0].since, w.ends[1].since}
		for range rapid.IntRange(1, 10).Draw(t, "changes") {
			w.ends[rapid.IntRange(0, 1).Draw(t, "end")].configure(drawTiming(t))
			for i, s := range w.ends { // the observer knows of the change
				w.limit[i] = s.detection()
			}
			w.run(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * ms)
		}
		w.run(settle)
		for i, s := range w.ends {
			if s.state != Up || s.since != since[i] {
				t.Fatalf("end %d: %v since %v, before %v", i, s.state, s.since, since[i])
			}
			if s.polling || s.minTx != s.want.tx || s.usedTx != s.want.tx || s.minRx != s.want.rx || s.usedRx != s.want.rx {
				t.Fatalf("end %d has not settled: %+v", i, *s)
			}
		}
	})
}
