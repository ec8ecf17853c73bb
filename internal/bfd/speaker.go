//go:build linux

package bfd

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// ErrClosed is returned by a Speaker whose Run has ended or that runs already.
var ErrClosed = errors.New("the BFD speaker has ended or runs already")

// Config is what a Speaker needs.
type Config struct {
	// Netns is the network namespace, by name or path, whose addresses the sessions
	// have. Empty is the caller's.
	Netns string
	// Log takes changes of state and of what the kernel refuses. nil logs nothing.
	Log *slog.Logger
	// Changed is told when a session comes up or is no longer up, one call at a time,
	// on a goroutine of Run. It may take its time, and may call Set and Status: changes
	// of one peer meanwhile are told as one, its last. A session begins not up, and
	// that is not told; nor is the end of one that Set has taken away for good. nil is
	// allowed.
	Changed func(Change)
}

// Speaker holds BFD sessions with a set of peers. Make it with New; its methods may
// be called by any goroutine.
type Speaker struct {
	netns   string
	log     *slog.Logger
	changed func(Change)

	early  chan struct{} // something is due before the timer's end
	notify chan struct{} // changes wait

	// setting lets one Set, or the end, run at a time. It is taken before mu, and held
	// while listeners are closed: that waits for their readers, who need mu.
	setting sync.Mutex

	mu        sync.Mutex // holds all below
	members   map[string]*member
	table     table
	listeners map[entrance]*listener
	discarded [discards]uint64
	armed     time.Time // when the timer ends
	changes   map[string]Change
	order     []string // of changes
	running   bool
	ended     bool
	readers   sync.WaitGroup
}

// member is a peer with its session and its socket.
type member struct {
	peer    Peer
	path    path
	session *session
	out     sender

	up                            bool // as told
	sent, received, failed, downs uint64
	sendErr                       error
}

// New returns a Speaker without peers. It does nothing before Set and Run.
func New(c Config) *Speaker {
	s := &Speaker{
		netns: c.Netns, log: c.Log, changed: c.Changed,
		early: make(chan struct{}, 1), notify: make(chan struct{}, 1),
		members: map[string]*member{}, listeners: map[entrance]*listener{}, changes: map[string]Change{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

// Run lets the sessions live until ctx ends, tells each peer that its session ends
// on purpose, and returns when nothing of the Speaker runs any more. It can be
// called once; a Speaker that was given peers holds sockets until Run has ended.
func (s *Speaker) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running || s.ended {
		s.mu.Unlock()
		return ErrClosed
	}
	s.running = true
	for _, l := range s.listeners {
		s.read(l)
	}
	s.mu.Unlock()
	var keeper sync.WaitGroup
	keeper.Go(func() { s.keepTime(ctx) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-s.notify:
			for _, c := range s.takeChanges() {
				s.changed(c)
			}
		}
	}
	keeper.Wait()
	s.end()
	s.readers.Wait()
	return nil
}

// end closes all sessions and sockets.
func (s *Speaker) end() {
	s.setting.Lock()
	defer s.setting.Unlock()
	s.mu.Lock()
	s.running, s.ended = false, true
	for _, m := range s.members {
		s.drop(m)
	}
	unused := s.unused()
	s.mu.Unlock()
	closeAll(unused)
}

// keepTime ticks the sessions.
func (s *Speaker) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.early:
		}
		timer.Reset(s.tick())
	}
}

// tick does what is due and returns for how long nothing else is.
func (s *Speaker) tick() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tickAt(time.Now())
	return time.Until(s.armed)
}

// tickAt does what is due and sets armed. The lock is held.
func (s *Speaker) tickAt(now time.Time) {
	for _, m := range s.members {
		if m.session.expired(now) {
			// If it was this process that stood still, the proof of the peer's life waits
			// in the sockets.
			s.catchUp()
			break
		}
	}
	s.armed = now.Add(time.Hour)
	for _, m := range s.members {
		if at, ok := m.session.next(); ok && !now.Before(at) {
			if p, ok := m.session.tick(now); ok {
				s.send(m, p)
			}
			s.note(m)
		}
		if at, ok := m.session.next(); ok && at.Before(s.armed) {
			s.armed = at
		}
	}
}

// catchUp takes in what waits in the sockets, up to a bound that a flood cannot
// stretch.
func (s *Speaker) catchUp() {
	for _, l := range s.listeners {
		l.peek(func(fd int) { l.drain(fd, readBatch*16, s.take) })
	}
}

// read starts the reader of a listener.
func (s *Speaker) read(l *listener) {
	s.readers.Go(func() {
		// The lock is held while packets are read, so that tick finds each of them either
		// taken or still in the socket.
		_ = l.serve(func(fd int) { // it ends when the listener is closed
			for empty := false; !empty; {
				s.mu.Lock()
				empty = l.drain(fd, readBatch, s.take)
				s.mu.Unlock()
			}
		})
	})
}

// take handles one received packet. The lock is held.
func (s *Speaker) take(b []byte, a arrival) {
	p, why := decode(b)
	var m *member
	if why == discardNone {
		m, why = s.table.find(p, a)
	}
	if why == discardNone {
		var reply packet
		var ok bool
		if reply, ok, why = m.session.receive(time.Now(), p); ok {
			s.send(m, reply)
		}
	}
	if why != discardNone {
		s.discarded[why]++
		return
	}
	m.received++
	s.note(m)
	if at, ok := m.session.next(); ok && at.Before(s.armed) {
		signal(s.early)
	}
}

// send sends a packet of a session and remembers whether the kernel had it.
func (s *Speaker) send(m *member, p packet) {
	err := m.out.send(p)
	if (err == nil) != (m.sendErr == nil) {
		if err != nil {
			s.log.Warn("BFD packets cannot be sent", "peer", m.peer.Name, "local", m.peer.Local, "remote", m.peer.Remote, "error", err)
		} else {
			s.log.Info("BFD packets can be sent again", "peer", m.peer.Name)
		}
	}
	m.sendErr = err
	if err != nil {
		m.failed++
		return
	}
	m.sent++
}

// note tells when a session has come up or is up no more.
func (s *Speaker) note(m *member) {
	up := m.session.state == Up
	if up == m.up {
		return
	}
	m.up = up
	orderly := !up && (m.session.state == AdminDown || m.session.remoteState == AdminDown && m.session.diag == NeighborDown)
	if up {
		s.log.Info("BFD session is up", "peer", m.peer.Name, "remote", m.peer.Remote, "detection", m.session.detection())
	} else {
		m.downs++
		s.log.Warn("BFD session is down", "peer", m.peer.Name, "remote", m.peer.Remote, "diagnostic", m.session.diag.String(), "orderly", orderly)
	}
	if s.changed == nil {
		return
	}
	name := m.peer.Name
	if _, waits := s.changes[name]; !waits {
		s.order = append(s.order, name)
	}
	s.changes[name] = Change{name, m.peer.Remote, up, m.session.diag, orderly, m.session.since}
	signal(s.notify)
}

// takeChanges returns the changes that wait, and forgets them.
func (s *Speaker) takeChanges() []Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Change, 0, len(s.order))
	for _, name := range s.order {
		list = append(list, s.changes[name])
	}
	clear(s.changes)
	s.order = s.order[:0]
	return list
}

// signal wakes who waits at ch, once.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// discriminator returns one that no session has. It cannot be guessed, so that who
// does not see the packets cannot name a session.
func (s *Speaker) discriminator() uint32 {
	for {
		var b [4]byte
		_, _ = crand.Read(b[:]) // it never fails
		if d := binary.NativeEndian.Uint32(b[:]); d != 0 && s.table.byDiscr[d] == nil {
			return d
		}
	}
}

// newMember starts a session by its socket.
func (s *Speaker) newMember(p Peer, link uint32, out sender) *member {
	return &member{
		peer: p, out: out,
		path:    path{p.Remote.WithZone(""), p.Local.WithZone(""), link, p.Multihop},
		session: newSession(time.Now(), s.discriminator(), p.timing(), rand.Int64N),
	}
}
