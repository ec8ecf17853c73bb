package forwarder

import "testing"

const us = int64(1000)

// cycle is a stretch without packets of d: the worker looks until patience is at
// an end, then sleeps for the rest. It returns whether it slept.
func (p *patience) cycle(now *int64, d int64) (slept bool) {
	since := *now
	for end := since + d; *now < end; *now += us / 2 {
		if !p.looks(since, *now) {
			*now = end
			p.woken(d, end)
			return true
		}
	}
	return false
}

// A worker whose packets come in quick succession stays awake for the next, one
// whose packets come now and then does not.
func TestPatienceFollowsTheTraffic(t *testing.T) {
	var p patience
	now := int64(1)
	for range 5 {
		p.cycle(&now, 40*us)
	}
	for range 100 {
		if p.cycle(&now, 40*us) {
			t.Fatal("asleep between packets 40 µs apart")
		}
	}
	for range 6 {
		p.cycle(&now, 1000*us)
	}
	if p.window != 0 {
		t.Errorf("still looks for %d ns with packets 1 ms apart", p.window)
	}
}

// A worker that looks and finds milliseconds gone was not alone on its processor,
// and lets the others have it.
func TestPatienceEndsWhereOthersWait(t *testing.T) {
	var p patience
	now := int64(1)
	for range 6 {
		p.cycle(&now, 40*us)
	}
	since := now
	if !p.looks(since, now) || !p.looks(since, now+us) {
		t.Fatal("does not look")
	}
	now += 3000 * us // another process had the processor
	if p.looks(since, now) {
		t.Error("looks on")
	}
	for range 10 {
		if !p.cycle(&now, 40*us) {
			t.Fatal("looks again at once")
		}
	}
	now += crowdedPause
	for range 5 {
		p.cycle(&now, 40*us)
	}
	if p.cycle(&now, 40*us) {
		t.Error("never looks again")
	}
}

// A sleep that ends without a packet, by a call or a timeout, is no lost turn.
func TestPatienceOutlivesASleepWithoutPackets(t *testing.T) {
	r := newRig(t)
	w := r.f.workers[0]
	w.patience.window = longestLook
	w.reader.Online()
	defer w.reader.Offline()
	w.poller.Wake()
	r.nanos = 50_000_000
	if w.sleep(1) {
		t.Fatal("there were packets")
	}
	if w.patience.looks(1, r.nanos+1); w.patience.crowded != 0 {
		t.Error("calls the processor crowded")
	}
}
