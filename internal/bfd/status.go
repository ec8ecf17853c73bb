//go:build linux

package bfd

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Change says that a session has come up or is no longer up.
type Change struct {
	Peer       string     // its name
	Remote     netip.Addr // its address
	Up         bool
	Diagnostic Diagnostic // why it is not up; NoDiagnostic when it is
	// Orderly is true if it is not up because one side took it out of service: that
	// says nothing about the path (RFC 5882 §3.2).
	Orderly bool
	Since   time.Time
}

// Status is a picture of a Speaker.
type Status struct {
	Sessions []SessionStatus // by name
	// Discarded counts received packets that changed nothing, by reason; reasons
	// without any are left out.
	Discarded map[string]uint64
}

// SessionStatus is a picture of one session.
type SessionStatus struct {
	Peer                               Peer // with defaults filled in
	State, RemoteState                 State
	Diagnostic, RemoteDiagnostic       Diagnostic
	Since                              time.Time // the last change of State
	Discriminator, RemoteDiscriminator uint32    // the peer's is 0 while it is not heard
	SourcePort                         uint16
	TransmitInterval, DetectionTime    time.Duration // in use; detection is 0 before the first packet
	RemoteTransmit, RemoteReceive      time.Duration // as the peer advertises them
	RemoteMultiplier                   uint8
	Polling                            bool   // a change of intervals is not confirmed yet
	Sent, Received                     uint64 // packets
	SendErrors                         uint64 // packets that the kernel refused
	LastSendError                      string // empty if the last packet could be sent
	DownCount                          uint64 // how often it left Up
}

// Status returns the state of all sessions. Any goroutine may call it.
func (s *Speaker) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st Status
	for _, m := range s.members {
		st.Sessions = append(st.Sessions, m.status())
	}
	slices.SortFunc(st.Sessions, func(a, b SessionStatus) int { return cmp.Compare(a.Peer.Name, b.Peer.Name) })
	st.Discarded = map[string]uint64{}
	for reason, n := range s.discarded {
		if n > 0 {
			st.Discarded[discard(reason).String()] = n
		}
	}
	return st
}

func (m *member) status() SessionStatus {
	s := m.session
	st := SessionStatus{
		Peer:  m.peer,
		State: s.state, RemoteState: s.remoteState,
		Diagnostic: s.diag, RemoteDiagnostic: s.remoteDiag,
		Since:         s.since,
		Discriminator: s.discr, RemoteDiscriminator: s.remoteDiscr,
		SourcePort:       m.out.port,
		TransmitInterval: s.interval(), DetectionTime: s.detection(),
		RemoteTransmit: s.remoteMinTx, RemoteReceive: s.remoteMinRx, RemoteMultiplier: s.remoteMult,
		Polling: s.polling,
		Sent:    m.sent, Received: m.received, SendErrors: m.failed,
		DownCount: m.downs,
	}
	if m.sendErr != nil {
		st.LastSendError = m.sendErr.Error()
	}
	return st
}
