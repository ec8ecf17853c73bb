package forwarder

// patience says how long a worker without packets keeps looking for the next one
// before it sleeps. Waking up costs both the sender, who must call, and the packet,
// which waits: some 10 to 50 µs. Looking costs a processor.
//
// It learns as KVM's halt polling does: a sleep that ended soon should have been
// a look, so the window grows; one that lasted shows that looking was in vain, so
// it shrinks, down to nothing on a port with a packet now and then. A worker that
// lost its processor while it looked stops looking for a while: others want to
// run there, perhaps the very process whose packet it waits for.
//
// It belongs to one worker. The zero value does not wait.
type patience struct {
	window  int64 // ns
	looked  int64 // when the worker looked last
	crowded int64 // until when others want the processor
}

// In nanoseconds.
const (
	longestLook  = 100_000    // what a wake-up, an answer and another wake-up take together
	shortestLook = 5_000      // smaller windows are none
	lostTurn     = 300_000    // between two looks: longer than a woken process needs to answer
	crowdedPause = 20_000_000 // a few time slices
)

// looks reports whether a worker that has been idle since then should look once more.
func (p *patience) looks(since, now int64) bool {
	if since != now && now-p.looked > lostTurn {
		p.window, p.crowded = 0, now+crowdedPause
	}
	p.looked = now
	return now-since < p.window
}

// woken learns from a sleep that ended at now with packets, after idle nanoseconds
// without any, the look before it included.
func (p *patience) woken(idle, now int64) {
	switch {
	case now < p.crowded:
	case idle <= longestLook:
		p.window = min(max(2*p.window, 2*shortestLook), longestLook)
	default:
		if p.window /= 2; p.window < shortestLook {
			p.window = 0
		}
	}
}
