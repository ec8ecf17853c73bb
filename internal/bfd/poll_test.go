package bfd

import (
	"testing"
	"time"
)

// RFC 5880 §6.5: a Poll is answered at once by a packet with Final and without Poll, in every state
// RFC 5880 §6.8.7: the answer waits for no timer and moves none
func TestPollIsAnswered(t *testing.T) {
	for _, state := range []State{AdminDown, Down, Init, Up} {
		r := up(t, usual)
		due := r.due
		p := from(state)
		p.poll = true
		reply := r.hear(p)
		if reply == nil || !reply.final || reply.poll || reply.state != r.state || reply.your != 9 {
			t.Errorf("%v: answered %+v", state, reply)
		}
		if r.state == Up && r.due != due {
			t.Errorf("%v: the timer moved", state)
		}
	}
}

// RFC 5880 §6.8.3: becoming Up changes the transmit interval, so a poll sequence begins
// RFC 5880 §6.5: its Poll goes on the scheduled packets until Final, and on no others
func TestPollAfterUp(t *testing.T) {
	r := newRig(t, usual)
	r.run(0)
	r.hear(from(Down))
	if reply := r.hear(from(Init)); reply == nil || reply.poll || reply.state != Up || reply.minTx != 300*ms {
		t.Fatalf("answered %+v", reply)
	}
	for range 3 {
		sent, _ := r.run(300 * ms)
		if len(sent) == 0 || !sent[0].poll || sent[0].final {
			t.Fatalf("sent %+v; want a Poll", sent)
		}
		r.hear(from(Up))
	}
	p := from(Up)
	p.final = true
	r.hear(p)
	if sent, _ := r.run(600 * ms); len(sent) == 0 || sent[0].poll {
		t.Errorf("sent %+v; want no Poll", sent)
	}
}

// RFC 5880 §6.8.3: a longer transmit interval is told at once and used after Final
func TestSendingLessOftenWaitsForFinal(t *testing.T) {
	r := up(t, usual)
	r.configure(timing{2 * time.Second, 300 * ms, 3})
	for range 5 {
		sent, _ := r.run(300 * ms)
		if len(sent) == 0 || !sent[0].poll || sent[0].minTx != 2*time.Second {
			t.Fatalf("sent %+v", sent)
		}
		r.hear(from(Up))
	}
	p := from(Up)
	p.final = true
	r.hear(p)
	if r.interval() != 2*time.Second || r.polling {
		t.Errorf("interval %v, polling %v", r.interval(), r.polling)
	}
}

// RFC 5880 §6.8.3: a shorter transmit interval is used at once
func TestSendingMoreOften(t *testing.T) {
	r := up(t, timing{900 * ms, 300 * ms, 3})
	r.configure(timing{300 * ms, 300 * ms, 3})
	sent, at := r.run(300 * ms)
	if len(sent) == 0 || !sent[0].poll || sent[0].minTx != 300*ms || r.interval() != 300*ms {
		t.Errorf("sent %+v at %v, interval %v", sent, at, r.interval())
	}
}

// RFC 5880 §6.8.3: a shorter receive interval counts for the detection time after Final
func TestExpectingMoreWaitsForFinal(t *testing.T) {
	r := up(t, timing{300 * ms, 2 * time.Second, 3})
	r.configure(timing{300 * ms, 300 * ms, 3})
	if r.run(ms); r.detection() != 6*time.Second {
		t.Errorf("detection %v before Final", r.detection())
	}
	if r.minRx != 300*ms {
		t.Errorf("advertised %v", r.minRx)
	}
	r.finish(from(Up))
	if r.detection() != 900*ms {
		t.Errorf("detection %v after Final", r.detection())
	}
}

// RFC 5880 §6.8.3: a longer receive interval counts for the detection time at once
func TestExpectingLess(t *testing.T) {
	r := up(t, usual)
	r.configure(timing{300 * ms, time.Second, 3})
	if r.detection() != 3*time.Second || !r.polling {
		t.Errorf("detection %v, polling %v", r.detection(), r.polling)
	}
}

// RFC 5880 §6.5: a change during a poll sequence begins another one when that has ended
func TestChangeDuringPoll(t *testing.T) {
	r := up(t, usual)
	r.configure(timing{time.Second, 300 * ms, 3})
	r.run(300 * ms)
	r.hear(from(Up))
	r.configure(timing{2 * time.Second, 300 * ms, 3})
	p := from(Up)
	p.final = true
	r.hear(p)
	if r.interval() != time.Second || !r.polling || r.polled || r.minTx != 2*time.Second {
		t.Errorf("interval %v, polling %v, polled %v, advertised %v", r.interval(), r.polling, r.polled, r.minTx)
	}
	// The same Final again, before the second Poll has left, ends nothing.
	if r.hear(p); !r.polling {
		t.Error("an old Final ended the poll sequence")
	}
	r.finish(from(Up))
	if r.interval() != 2*time.Second {
		t.Errorf("interval %v", r.interval())
	}
}

// RFC 5880 §6.8.12: another multiplier goes with the next packet, without a poll sequence
func TestMultiplierChange(t *testing.T) {
	r := up(t, usual)
	r.configure(timing{300 * ms, 300 * ms, 5})
	sent, _ := r.run(300 * ms)
	if len(sent) == 0 || sent[0].poll || sent[0].mult != 5 {
		t.Errorf("sent %+v", sent)
	}
}

// RFC 5880 §6.8.3: a session that leaves Up amid a poll sequence sends no more than once a second
func TestDownAmidPoll(t *testing.T) {
	r := up(t, usual)
	r.configure(timing{2 * time.Second, 300 * ms, 3})
	r.run(300 * ms)
	r.hear(from(Down))
	if r.interval() != 2*time.Second {
		t.Errorf("interval %v", r.interval())
	}
}
