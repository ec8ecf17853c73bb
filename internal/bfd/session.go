package bfd

import "time"

// slow is the least Desired Min TX Interval of a session that is not Up
// (RFC 5880 §6.8.3).
const slow = time.Second

// timing is what a session may be told to do.
type timing struct {
	tx   time.Duration // how often we would send, whole microseconds, above 0
	rx   time.Duration // how often the peer may send, whole microseconds, above 0
	mult uint8         // how many of our packets the peer may miss in a row, above 0
}

// session is the state machine of one session (RFC 5880 §6.8). It has no clock and
// no socket: every method takes the present, which never goes backwards, and returns
// a packet if one is to be sent now. next says when tick is to be called. It has one
// user at a time.
//
// The names of RFC 5880 §6.8.1 stand beside the fields.
type session struct {
	want   timing
	random func(n int64) int64 // uniform in [0, n)

	state       State         // bfd.SessionState
	diag        Diagnostic    // bfd.LocalDiag
	discr       uint32        // bfd.LocalDiscr
	minTx       time.Duration // bfd.DesiredMinTxInterval, as packets carry it
	minRx       time.Duration // bfd.RequiredMinRxInterval, as packets carry it
	remoteState State         // bfd.RemoteSessionState
	remoteDiag  Diagnostic
	remoteDiscr uint32        // bfd.RemoteDiscr, 0 while the peer is not heard
	remoteMinRx time.Duration // bfd.RemoteMinRxInterval
	remoteMinTx time.Duration // the last Desired Min TX Interval received
	remoteMult  uint8         // the last Detect Mult received
	demanded    bool          // bfd.RemoteDemandMode

	// A poll sequence is wanted, and its first packet has been sent. What it
	// announces is in minTx and minRx; what is in use until it ends, here.
	polling, polled bool
	usedTx, usedRx  time.Duration

	sent  time.Time     // the last periodic packet; zero before the first
	due   time.Time     // the next periodic packet
	paced time.Duration // the interval that due was drawn from
	heard time.Time     // the last packet that was not discarded
	since time.Time     // the last change of state
}

// newSession starts a session, whose first packet is due at once. discr is not 0
// and belongs to no other session.
func newSession(now time.Time, discr uint32, want timing, random func(int64) int64) *session {
	s := &session{
		want: want, random: random, discr: discr,
		state: Down, remoteState: Down,
		minTx: max(want.tx, slow), minRx: want.rx,
		remoteMinRx: time.Microsecond, // RFC 5880 §6.8.1: initially 1
		due:         now, since: now,
	}
	s.usedTx, s.usedRx = s.minTx, s.minRx
	s.paced = s.interval()
	return s
}

// interval is the one between periodic packets, before jitter (RFC 5880 §6.8.2).
func (s *session) interval() time.Duration { return max(s.usedTx, s.remoteMinRx) }

// detection is the Detection Time (RFC 5880 §6.8.4): the peer's multiplier times the
// interval that the peer has agreed to.
func (s *session) detection() time.Duration {
	return time.Duration(s.remoteMult) * max(s.usedRx, s.remoteMinTx)
}

// expired reports whether the detection time has passed since the peer was heard.
func (s *session) expired(now time.Time) bool {
	return s.remoteDiscr != 0 && !now.Before(s.heard.Add(s.detection()))
}

// transmits reports whether periodic packets are sent at all (RFC 5880 §6.8.7).
func (s *session) transmits() bool {
	if s.remoteMinRx == 0 || s.state == AdminDown {
		return false
	}
	// RFC 5880 §6.6: a peer in Demand mode wants no periodic packets, but polls.
	demand := s.demanded && s.state == Up && s.remoteState == Up
	return !demand || s.polling
}

// next is when tick has something to do; false means not before something else
// happens.
func (s *session) next() (time.Time, bool) {
	at, ok := s.due, s.transmits()
	if s.remoteDiscr != 0 {
		if end := s.heard.Add(s.detection()); !ok || end.Before(at) {
			at, ok = end, true
		}
	}
	return at, ok
}

// tick does what time has brought: the end of the detection time, the next periodic
// packet.
func (s *session) tick(now time.Time) (packet, bool) {
	was := s.state
	if s.expired(now) {
		s.remoteDiscr = 0 // RFC 5880 §6.8.1
		if s.state == Init || s.state == Up {
			s.enter(now, Down, TimeExpired) // RFC 5880 §6.8.4
		}
		s.pace()
	}
	if s.transmits() && !now.Before(s.due) {
		s.sent = now
		s.paced = s.interval()
		s.due = now.Add(s.jittered(s.paced))
		p := s.packet()
		// RFC 5880 §6.5: the poll bit goes on the scheduled packets.
		p.poll, s.polled = s.polling, s.polling
		return p, true
	}
	// RFC 5880 §6.8.7: what changes the state is told at once.
	return s.packet(), s.state != was
}

// receive takes a packet that decode and the table have let pass, in the order of
// RFC 5880 §6.8.6.
func (s *session) receive(now time.Time, p packet) (packet, bool, discard) {
	if p.auth { // no authentication is in use
		return packet{}, false, discardAuthentication
	}
	was, diag := s.state, s.diag
	s.remoteDiscr, s.remoteState, s.remoteDiag = p.my, p.state, p.diag
	s.demanded = p.demand
	s.remoteMinRx, s.remoteMinTx, s.remoteMult = p.minRx, p.minTx, p.mult
	s.heard = now
	// A Final that comes before our Poll has left ends an earlier sequence.
	if p.final && s.polled {
		s.polling, s.polled = false, false
		s.usedTx, s.usedRx = s.minTx, s.minRx
		s.negotiate()
	}
	if s.state == AdminDown {
		return packet{}, false, discardAdminDown
	}
	s.transition(now, p.state)
	s.pace()
	reply := s.packet()
	reply.final = p.poll
	return reply, p.poll || s.state != was || s.diag != diag, discardNone
}

// transition moves the state by the state received (RFC 5880 §6.2 and §6.8.6).
func (s *session) transition(now time.Time, received State) {
	switch {
	case received == AdminDown:
		if s.state != Down {
			s.enter(now, Down, NeighborDown)
		}
	case s.state == Down && received == Down:
		s.enter(now, Init, s.diag)
	case s.state == Down && received == Init:
		s.enter(now, Up, NoDiagnostic)
	case s.state == Init && (received == Init || received == Up):
		s.enter(now, Up, NoDiagnostic)
	case s.state == Up && received == Down:
		s.enter(now, Down, NeighborDown)
	}
}

// enter changes the state. What a session may advertise depends on it.
func (s *session) enter(now time.Time, state State, diag Diagnostic) {
	s.state, s.diag, s.since = state, diag, now
	s.negotiate()
}

// configure changes the timing of a session that goes on.
func (s *session) configure(want timing) {
	s.want = want
	// A running poll ends first, so that its Final confirms the values it carried.
	if s.state != Up || !s.polling {
		s.negotiate()
	}
	s.pace()
}

// negotiate advertises the wanted intervals, by a poll sequence if they differ from
// those advertised (RFC 5880 §6.8.3).
func (s *session) negotiate() {
	tx := s.want.tx
	if s.state != Up {
		tx = max(tx, slow)
	}
	if tx != s.minTx || s.want.rx != s.minRx {
		s.minTx, s.minRx = tx, s.want.rx
		s.polling, s.polled = true, false
	}
	// While Up, sending less often waits until the peer has said that it knows, and so
	// does expecting more often (RFC 5880 §6.8.3). All else holds at once.
	if s.state != Up || s.minTx < s.usedTx {
		s.usedTx = s.minTx
	}
	if s.state != Up || s.minRx > s.usedRx {
		s.usedRx = s.minRx
	}
}

// pace moves the next periodic packet if the interval has changed: the new one
// counts from the packet sent last (RFC 5880 §6.8.3).
func (s *session) pace() {
	if now := s.interval(); now != s.paced && !s.sent.IsZero() {
		s.paced = now
		s.due = s.sent.Add(s.jittered(now))
	}
}

// jittered takes 0 to 25 % from an interval, and at least 10 % where a single lost
// packet ends the session (RFC 5880 §6.8.7).
func (s *session) jittered(d time.Duration) time.Duration {
	most := d
	if s.want.mult == 1 {
		most = d / 10 * 9
	}
	least := d - d/4
	return least + time.Duration(s.random(int64(most-least)+1))
}

// packet is what a packet sent now carries, with Poll and Final clear
// (RFC 5880 §6.8.7).
func (s *session) packet() packet {
	return packet{
		state: s.state, diag: s.diag, mult: s.want.mult,
		my: s.discr, your: s.remoteDiscr,
		minTx: s.minTx, minRx: s.minRx,
	}
}

// close takes the session out of service and returns the packet that says so
// (RFC 5880 §6.8.16).
func (s *session) close(now time.Time) packet {
	s.enter(now, AdminDown, AdministrativeDown)
	return s.packet()
}
