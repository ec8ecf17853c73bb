package flowtable

import "testing"

// step is one packet of a conversation and what must follow from it.
type step struct {
	dir      Direction
	flags    uint8
	seq, ack uint32
	payload  int
	verdict  TCPVerdict
	state    State
}

const (
	in, out = Forward, Reply // as the initiator sees it: what it sends goes in
	syn     = flagSYN
	synAck  = flagSYN | flagACK
	ackOnly = flagACK
	finAck  = flagFIN | flagACK
	rst     = flagRST
	rstAck  = flagRST | flagACK
)

// window is what every packet of these tests advertises, unscaled; trackers
// round it up to 1<<15.
const window = 20_000

func tcpSession() *Session {
	s := new(Session)
	s.SetKeys(flow(1), flow(1).Reverse())
	return s
}

// converse plays steps on s.
func converse(t *testing.T, s *Session, steps []step) {
	t.Helper()
	for i, p := range steps {
		s.Count(p.dir, 100, 1)
		verdict := s.TrackTCP(p.dir, p.seq, p.ack, window, p.flags, p.payload, nil)
		if verdict != p.verdict || s.State() != p.state {
			t.Fatalf("step %d %+v: verdict %d, state %v", i, p, verdict, s.State())
		}
	}
}

// handshake opens a connection: the initiator's next byte is 1001, the
// responder's 5001.
var handshake = []step{
	{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
	{out, synAck, 5000, 1001, 0, TCPPass, TCPSynReceived},
	{in, ackOnly, 1001, 5001, 0, TCPPass, TCPEstablished},
}

func established(t *testing.T) *Session {
	t.Helper()
	s := tcpSession()
	converse(t, s, handshake)
	return s
}

// close is both ends' FIN, acknowledged, after handshake.
var closing = []step{
	{in, finAck, 1001, 5001, 0, TCPPass, TCPFinWait},
	{out, ackOnly, 5001, 1002, 0, TCPPass, TCPFinWait},
	{out, ackOnly, 5001, 1002, 700, TCPPass, TCPFinWait}, // half closed: data goes on
	{in, ackOnly, 1002, 5701, 0, TCPPass, TCPFinWait},
	{out, finAck, 5701, 1002, 0, TCPPass, TCPClosing},
	{in, ackOnly, 1002, 5702, 0, TCPPass, TCPTimeWait},
	{out, finAck, 5701, 1002, 0, TCPPass, TCPTimeWait}, // its acknowledgement was lost
	{in, ackOnly, 1002, 5702, 0, TCPPass, TCPTimeWait},
}

func TestTCPConversations(t *testing.T) {
	for name, steps := range map[string][]step{
		// RFC 5382 REQ-2: the ordinary handshake and close, repeated packets included
		"handshake and close": append(append([]step{}, handshake...), closing...),
		"repeated handshake": {
			{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
			{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
			{out, synAck, 5000, 1001, 0, TCPPass, TCPSynReceived},
			{in, syn, 1000, 0, 0, TCPPass, TCPSynReceived},
			{out, synAck, 5000, 1001, 0, TCPPass, TCPSynReceived},
			{in, ackOnly, 1001, 5001, 0, TCPPass, TCPEstablished},
			{out, synAck, 5000, 1001, 0, TCPPass, TCPEstablished},
			{in, ackOnly, 1001, 5001, 10, TCPPass, TCPEstablished},
		},
		// RFC 5382 REQ-2: simultaneous open
		"simultaneous open": {
			{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
			{out, syn, 5000, 0, 0, TCPPass, TCPSynReceived},
			{in, synAck, 1000, 5001, 0, TCPPass, TCPSynReceived},
			{out, synAck, 5000, 1001, 0, TCPPass, TCPEstablished},
			{in, ackOnly, 1001, 5001, 50, TCPPass, TCPEstablished},
			{out, rst, 5001, 0, 0, TCPPass, TCPClosed},
		},
		"simultaneous close": append(append([]step{}, handshake...),
			step{in, finAck, 1001, 5001, 0, TCPPass, TCPFinWait},
			step{out, finAck, 5001, 1001, 0, TCPPass, TCPClosing},
			step{in, ackOnly, 1002, 5002, 0, TCPPass, TCPClosing},
			step{out, ackOnly, 5002, 1002, 0, TCPPass, TCPTimeWait},
		),
		"another attempt from the same port": {
			{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
			{in, syn, 70_000, 0, 0, TCPPass, TCPSynSent},
			{out, synAck, 5000, 1001, 0, TCPPass, TCPSynSent}, // answers the first attempt
			{out, synAck, 5000, 70_001, 0, TCPPass, TCPSynReceived},
			{in, ackOnly, 70_001, 5001, 0, TCPPass, TCPEstablished},
		},
		// RFC 7413: a SYN with data, of which only the SYN is acknowledged
		"fast open": {
			{in, syn, 1000, 0, 500, TCPPass, TCPSynSent},
			{out, synAck, 5000, 1001, 0, TCPPass, TCPSynReceived},
			{in, ackOnly, 1001, 5001, 500, TCPPass, TCPEstablished},
		},
		"refused": {
			{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
			{out, rstAck, 0, 1001, 0, TCPPass, TCPClosed},
			{in, syn, 2000, 0, 0, TCPReopen, TCPClosed},
		},
		// RFC 5961 section 3.2: in SYN-SENT a reset must acknowledge the SYN
		"blind reset of an attempt": {
			{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
			{out, rst, 0, 0, 0, TCPOutOfWindow, TCPSynSent},
			{out, rst, 1001, 1001, 0, TCPOutOfWindow, TCPSynSent},
			{out, rstAck, 0, 1000, 0, TCPOutOfWindow, TCPSynSent},
			{out, rstAck, 0, 1002, 0, TCPOutOfWindow, TCPSynSent},
			{out, synAck, 5000, 1001, 0, TCPPass, TCPSynReceived},
		},
		// RFC 9293 section 3.5.1: half-open recovery: an old connection's end answers
		// a SYN with an acknowledgement, is reset, and then accepts the SYN
		"half open": {
			{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
			{out, ackOnly, 300, 100, 0, TCPPass, TCPSynSent},
			{in, rst, 100, 0, 0, TCPPass, TCPSynSent},
			{in, syn, 1000, 0, 0, TCPPass, TCPSynSent},
			{out, synAck, 5000, 1001, 0, TCPPass, TCPSynReceived},
		},
		"picked up in mid-stream": {
			{in, ackOnly, 1001, 5001, 100, TCPPass, Unreplied},
			{in, ackOnly, 1101, 5001, 100, TCPPass, Unreplied},
			{out, ackOnly, 5001, 1201, 900, TCPPass, TCPEstablished},
			{in, ackOnly, 1201, 5901, 60_000, TCPPass, TCPEstablished},
			{in, finAck, 61_201, 5901, 0, TCPPass, TCPFinWait},
			{out, finAck, 5901, 61_202, 0, TCPPass, TCPClosing},
			{in, ackOnly, 61_202, 5902, 0, TCPPass, TCPTimeWait},
		},
		"mid-stream, refused by who has forgotten it": {
			{in, ackOnly, 1001, 5001, 100, TCPPass, Unreplied},
			{out, rst, 5001, 0, 0, TCPPass, TCPClosed},
		},
		"sequence numbers wrap": {
			{in, syn, 1<<32 - 1, 0, 0, TCPPass, TCPSynSent},
			{out, synAck, 1<<32 - 100, 0, 0, TCPPass, TCPSynReceived},
			{in, ackOnly, 0, 1<<32 - 99, 0, TCPPass, TCPEstablished},
			{out, ackOnly, 1<<32 - 99, 0, 1000, TCPPass, TCPEstablished},
			{in, ackOnly, 0, 901, 0, TCPPass, TCPEstablished},
			{out, rst, 901, 0, 0, TCPPass, TCPClosed},
		},
	} {
		t.Run(name, func(t *testing.T) { converse(t, tcpSession(), steps) })
	}
}

// RFC 5961 section 3.2: a reset ends a connection only at the expected sequence; in the window it is the endpoint's to challenge
func TestTCPReset(t *testing.T) {
	for name, p := range map[string]step{
		"exact":                {in, rst, 1001, 0, 0, TCPPass, TCPClosed},
		"exact with ACK":       {in, rstAck, 1001, 5001, 0, TCPPass, TCPClosed},
		"exact, from the peer": {out, rst, 5001, 0, 0, TCPPass, TCPClosed},
		"one before":           {in, rst, 1000, 0, 0, TCPOutOfWindow, TCPEstablished},
		"one after":            {in, rst, 1002, 0, 0, TCPPass, TCPEstablished},
		"in the window":        {in, rst, 1001 + window - 1, 0, 0, TCPPass, TCPEstablished},
		"behind the window":    {in, rst, 1001 + 1<<15, 0, 0, TCPOutOfWindow, TCPEstablished},
		"far off":              {out, rst, 5001 + 1<<31, 0, 0, TCPOutOfWindow, TCPEstablished},
		"sequence zero":        {out, rstAck, 0, 1001, 0, TCPOutOfWindow, TCPEstablished},
	} {
		t.Run(name, func(t *testing.T) { converse(t, established(t), []step{p}) })
	}
}

// A sender that gives up resets at the end of what it sent, before the receiver
// has acknowledged all of it.
func TestTCPResetAheadOfAcknowledgement(t *testing.T) {
	converse(t, established(t), []step{
		{in, ackOnly, 1001, 5001, 1448, TCPPass, TCPEstablished},
		{in, rstAck, 2449, 5001, 0, TCPPass, TCPClosed},
	})
}

// RFC 7857 section 2.1: after a reset the session stays, and lives again if packets follow
func TestTCPLivesOnAfterReset(t *testing.T) {
	converse(t, established(t), []step{
		{in, rst, 1001, 0, 0, TCPPass, TCPClosed},
		{out, ackOnly, 5001, 1001, 10, TCPPass, TCPClosed}, // was on its way
		{in, ackOnly, 1001, 5011, 0, TCPPass, TCPClosed},
		{in, ackOnly, 1001, 5011, 10, TCPPass, TCPEstablished},
	})
}

// RFC 5961 section 4.2: a SYN on a live connection changes nothing; the endpoint challenges it
func TestTCPBlindSYN(t *testing.T) {
	converse(t, established(t), []step{
		{in, syn, 90_000, 0, 0, TCPPass, TCPEstablished},
		{out, syn, 90_000, 0, 0, TCPPass, TCPEstablished},
		{in, synAck, 90_000, 5001, 0, TCPPass, TCPEstablished},
		{out, synAck, 90_000, 1001, 0, TCPPass, TCPEstablished},
		{out, ackOnly, 5001, 1001, 0, TCPPass, TCPEstablished}, // the challenge
		{in, ackOnly, 1001, 5001, 100, TCPPass, TCPEstablished},
		{out, ackOnly, 5001, 1101, 100, TCPPass, TCPEstablished},
		{in, rst, 90_001, 0, 0, TCPOutOfWindow, TCPEstablished},
	})
}

// RFC 5961 section 4.2: an end that really has started anew answers the challenge with an exact reset
func TestTCPRestartedInitiator(t *testing.T) {
	converse(t, established(t), []step{
		{in, syn, 90_000, 0, 0, TCPPass, TCPEstablished},
		{out, ackOnly, 5001, 1001, 0, TCPPass, TCPEstablished},
		{in, rst, 1001, 0, 0, TCPPass, TCPClosed},
		{in, syn, 90_000, 0, 0, TCPReopen, TCPClosed},
	})
}

// RFC 9293 section 3.10.7.1: a responder that has forgotten the connection refuses a new SYN, and that reset arrives
func TestTCPRestartedResponder(t *testing.T) {
	converse(t, established(t), []step{
		{in, syn, 90_000, 0, 0, TCPPass, TCPEstablished},
		{out, rstAck, 0, 90_001, 0, TCPPass, TCPEstablished},
	})
}

// RFC 5961 section 5.2: data whose sequence or acknowledgement cannot be right passes and moves nothing
func TestTCPBlindData(t *testing.T) {
	for name, p := range map[string]step{
		"behind the window":      {in, finAck, 1001 + 1<<15, 5001, 1, TCPPass, TCPEstablished},
		"long past":              {in, finAck, 1<<32 + 1001 - 70_000, 5001, 1, TCPPass, TCPEstablished},
		"acknowledges too much":  {in, finAck, 1001, 5002, 1, TCPPass, TCPEstablished},
		"acknowledges the past":  {in, finAck, 1001, 1<<32 + 5001 - 70_000, 1, TCPPass, TCPEstablished},
		"without acknowledgment": {in, flagFIN, 1001, 0, 1, TCPPass, TCPEstablished},
		"fits":                   {in, finAck, 1001, 5001, 1, TCPPass, TCPFinWait},
	} {
		t.Run(name, func(t *testing.T) { converse(t, established(t), []step{p}) })
	}
}

// RFC 5382 REQ-2, RFC 6191: only a SYN reopens a finished connection, and only a finished one
func TestTCPReopen(t *testing.T) {
	s := established(t)
	converse(t, s, closing)
	converse(t, s, []step{
		{in, ackOnly, 1002, 5702, 5, TCPPass, TCPTimeWait},
		{in, rst, 7, 0, 0, TCPOutOfWindow, TCPTimeWait},
		{in, syn, 300_000, 0, 0, TCPReopen, TCPTimeWait},
		{out, syn, 300_000, 0, 0, TCPReopen, TCPTimeWait},
	})
	half := established(t)
	converse(t, half, closing[:4])
	converse(t, half, []step{{in, syn, 300_000, 0, 0, TCPPass, TCPFinWait}})
}

// RFC 7323 section 2.2: windows are scaled only if both SYNs offered it
func TestTCPWindowScale(t *testing.T) {
	const far = 1001 + 3_000_000 // within 20,000<<8, beyond 20,000
	scale8 := []byte{2, 4, 5, 180, 1, 3, 3, 8}
	for name, c := range map[string]struct {
		initiator, responder []byte
		want                 State
	}{
		"both offer":     {scale8, scale8, TCPFinWait},
		"one offers":     {scale8, nil, TCPEstablished},
		"other offers":   {nil, scale8, TCPEstablished},
		"broken options": {scale8, []byte{3, 200, 8}, TCPEstablished},
		"cut options":    {scale8, []byte{1, 1, 3}, TCPEstablished},
		"zero length":    {scale8, []byte{8, 0, 3, 3, 8}, TCPEstablished},
		"after the end":  {scale8, []byte{0, 3, 3, 8}, TCPEstablished},
	} {
		t.Run(name, func(t *testing.T) {
			s := tcpSession()
			s.TrackTCP(in, 1000, 0, window, syn, 0, c.initiator)
			s.TrackTCP(out, 5000, 1001, window, synAck, 0, c.responder)
			s.TrackTCP(in, 1001, 5001, window, ackOnly, 0, nil)
			s.TrackTCP(out, 5001, 1001, window, ackOnly, 0, nil)
			s.TrackTCP(in, far, 5001, window, finAck, 0, nil)
			if s.State() != c.want {
				t.Errorf("state %v, want %v", s.State(), c.want)
			}
		})
	}
}

// A superpacket of 64 KiB in each direction, window permitting, keeps the state whole.
func TestTCPSuperpackets(t *testing.T) {
	s := tcpSession()
	scale7 := []byte{3, 3, 7}
	s.TrackTCP(in, 1000, 0, 64240, syn, 0, scale7)
	s.TrackTCP(out, 5000, 1001, 65160, synAck, 0, scale7)
	s.TrackTCP(in, 1001, 5001, 502, ackOnly, 0, nil)
	s.TrackTCP(out, 5001, 1001, 502, ackOnly, 0, nil)
	next := uint32(1001)
	for range 1000 {
		s.TrackTCP(in, next, 5001, 502, ackOnly, 64_000, nil)
		next += 64_000
		s.TrackTCP(out, 5001, next, 5000, ackOnly, 0, nil)
	}
	if v := s.TrackTCP(out, 5001, 0, 0, rst, 0, nil); v != TCPPass || s.State() != TCPClosed {
		t.Errorf("exact reset after bulk: %d, %v", v, s.State())
	}
	if s.forward.next.Load() != next || s.reply.ack.Load() != next {
		t.Errorf("next %d, acknowledged %d, want %d", s.forward.next.Load(), s.reply.ack.Load(), next)
	}
}

// Nothing a packet holds makes the tracker fail, and no direction's words are
// written by the other's packets.
func FuzzTrackTCP(f *testing.F) {
	f.Add(uint8(0), uint32(1001), uint32(5001), uint16(1), uint8(flagRST), 10, []byte{3, 3, 7})
	f.Add(uint8(1), uint32(5001), uint32(1001), uint16(9), uint8(flagSYN|flagACK), 70_000, []byte{3})
	f.Fuzz(func(t *testing.T, dir uint8, seq, ack uint32, window uint16, flags uint8, payload int, options []byte) {
		s := tcpSession()
		for _, p := range handshake {
			s.TrackTCP(p.dir, p.seq, p.ack, 20_000, p.flags, p.payload, nil)
		}
		d := Direction(dir & 1)
		other := s.half(d ^ 1)
		before := [3]uint32{other.next.Load(), other.ack.Load(), other.tcp.Load()}
		v := s.TrackTCP(d, seq, ack, window, flags, payload, options)
		if after := [3]uint32{other.next.Load(), other.ack.Load(), other.tcp.Load()}; after != before {
			t.Errorf("the other direction's words went from %v to %v", before, after)
		}
		if v == TCPReopen || v == TCPOutOfWindow && flags&flagRST == 0 {
			t.Errorf("verdict %d", v)
		}
		if s.State() == TCPClosed && seq != other.ack.Load() {
			t.Errorf("closed by a reset at %d, expected %d", seq, other.ack.Load())
		}
	})
}
