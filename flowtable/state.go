package flowtable

// State is how far a connection has got. It is read off the session's words and
// stored nowhere.
type State uint8

// The states: the first two for every protocol (and TCP picked up in
// mid-stream), the others for TCP.
const (
	Unreplied      State = iota // packets one way only
	Replied                     // packets both ways
	TCPSynSent                  // SYN, no answer yet
	TCPSynReceived              // SYN both ways, not yet acknowledged
	TCPEstablished              // acknowledged both ways
	TCPFinWait                  // FIN one way; data may flow the other way as long as it likes
	TCPClosing                  // FIN both ways, not yet acknowledged
	TCPTimeWait                 // FIN both ways, acknowledged
	TCPClosed                   // reset
	states
)

var stateNames = [states]string{
	"UNREPLIED", "REPLIED", "SYN_SENT", "SYN_RECEIVED", "ESTABLISHED",
	"FIN_WAIT", "CLOSING", "TIME_WAIT", "CLOSED",
}

// String returns the state's name as listings show it.
func (s State) String() string {
	if s < states {
		return stateNames[s]
	}
	return "UNKNOWN"
}

// protoTCP and the others are IP protocol numbers (IANA).
const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// State returns how far the connection has got.
func (s *Session) State() State {
	if s.Proto() == protoTCP {
		if state, tracked := s.tcpState(); tracked {
			return state
		}
	}
	if s.reply.packets.Load() == 0 {
		return Unreplied
	}
	return Replied
}

// tcpState derives the state from both directions' words; tracked is false while
// they say nothing about a connection.
func (s *Session) tcpState() (state State, tracked bool) {
	f, r := s.forward.tcp.Load(), s.reply.tcp.Load()
	switch both := f & r; {
	case (f|r)&tcpRST != 0:
		return TCPClosed, true
	case both&tcpFIN != 0:
		if after(s.forward.next.Load(), s.reply.ack.Load()) || after(s.reply.next.Load(), s.forward.ack.Load()) {
			return TCPClosing, true
		}
		return TCPTimeWait, true
	case (f|r)&tcpFIN != 0 && both&tcpAcked != 0:
		return TCPFinWait, true
	case both&tcpAcked != 0:
		return TCPEstablished, true
	case both&tcpSYN != 0:
		return TCPSynReceived, true
	case (f|r)&tcpSYN != 0:
		return TCPSynSent, true
	}
	return Unreplied, false
}
