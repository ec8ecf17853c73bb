package flowtable

import (
	"strings"
	"testing"
	"time"
)

// The constants themselves, so that no edit goes unnoticed.
//
// RFC 4787 REQ-5: UDP 300 s unless configured
// RFC 5382 REQ-5: TCP established 7440 s, transitory 240 s
// RFC 5508 REQ-2: ICMP 60 s
func TestTimeoutDefaults(t *testing.T) {
	want := Timeouts{
		UDPUnreplied: 300 * time.Second, UDPStream: 300 * time.Second,
		TCPEstablished: (2*time.Hour + 4*time.Minute), TCPTransitory: 4 * time.Minute,
		ICMP: 60 * time.Second, Other: 300 * time.Second,
	}
	if got := (Timeouts{}).withDefaults(); got != want {
		t.Errorf("defaults %+v", got)
	}
	if err := (Timeouts{}).Check(); err != nil {
		t.Error(err)
	}
}

func TestTimeoutFloors(t *testing.T) {
	for says, c := range map[string]Timeouts{
		"UDPUnreplied is 1m0s: want at least 2m0s (RFC 4787 REQ-5)": {UDPUnreplied: time.Minute},
		"UDPStream is 1m59s": {UDPStream: 119 * time.Second},
		"TCPEstablished is 2h0m0s: want at least 2h4m0s (RFC 5382 REQ-": {TCPEstablished: 2 * time.Hour},
		"TCPTransitory is 10s":                             {TCPTransitory: 10 * time.Second},
		"ICMP is 59s: want at least 1m0s (RFC 5508 REQ-2)": {ICMP: 59 * time.Second},
		"Other is -1s":                                     {Other: -time.Second},
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: error %v, want %q", c, err, says)
		}
	}
}

// aged is a session with a history and how many seconds it may idle.
type aged struct {
	proto   uint8
	packets []step // for TCP
	replied bool
	seconds uint32
}

var agedSessions = map[string]aged{
	"udp unreplied":      {proto: protoUDP, seconds: 300},
	"udp stream":         {proto: protoUDP, replied: true, seconds: 300},
	"icmp":               {proto: protoICMP, seconds: 60},
	"icmpv6 replied":     {proto: protoICMPv6, replied: true, seconds: 60},
	"sctp":               {proto: 132, replied: true, seconds: 300},
	"tcp syn sent":       {proto: protoTCP, packets: handshake[:1], seconds: 240},
	"tcp syn received":   {proto: protoTCP, packets: handshake[:2], seconds: 240},
	"tcp established":    {proto: protoTCP, packets: handshake, seconds: 7440},
	"tcp half closed":    {proto: protoTCP, packets: append(handshake[:3:3], closing[:4]...), seconds: 7440},
	"tcp closing":        {proto: protoTCP, packets: append(handshake[:3:3], closing[:5]...), seconds: 240},
	"tcp time wait":      {proto: protoTCP, packets: append(handshake[:3:3], closing...), seconds: 240},
	"tcp reset":          {proto: protoTCP, packets: append(handshake[:3:3], step{in, rst, 1001, 0, 0, TCPPass, TCPClosed}), seconds: 240},
	"tcp in mid-stream":  {proto: protoTCP, packets: []step{{in, ackOnly, 1, 1, 1, TCPPass, Unreplied}}, seconds: 240},
	"tcp never tracked":  {proto: protoTCP, seconds: 240},
	"udp almost forever": {proto: protoUDP, seconds: 300},
}

// begin puts an aged session into the table, last seen at now.
func (a aged) begin(t *testing.T, table *Table, i int, now uint32) Ref {
	t.Helper()
	k := flow(i)
	k.Proto = a.proto
	r := open(t, table, k)
	s := table.Session(r)
	s.Begin(now)
	s.Count(Forward, 1, 1)
	if a.replied {
		s.Count(Reply, 1, 1)
	}
	converse(t, s, a.packets)
	return r
}

// RFC 4787 REQ-5: no UDP session goes before its time, and each goes soon after it
// RFC 5382 REQ-5: no TCP session goes before its time; one FIN does not make it transitory
// RFC 5508 REQ-2: no ICMP query session goes before its time
func TestSessionsExpireOnTime(t *testing.T) {
	for name, a := range agedSessions {
		t.Run(name, func(t *testing.T) {
			table := newTable(t, 10)
			expired := 0
			ager := NewAger(table, Timeouts{}, nil, func(*Session) { expired++ })
			defer ager.Close()
			ticks := a.seconds * 10
			start := -ticks - 50 // the clock wraps between the last packet and the end
			r := a.begin(t, table, 1, start)
			if n := ager.Sweep(start+ticks, 100); n != 0 || !table.Session(r).Live() {
				t.Fatalf("gone after %d s", a.seconds)
			}
			table.Session(r).Seen(start + ticks) // refreshed
			if ager.Sweep(start+2*ticks, 100); expired != 0 {
				t.Fatal("gone though refreshed")
			}
			if n := ager.Sweep(start+2*ticks+1, 100); n != 1 || expired != 1 || table.Live() != 0 {
				t.Fatalf("%d removed, %d reported, %d live", n, expired, table.Live())
			}
		})
	}
}

// RFC 4787 REQ-11: a table that fills up takes time from what nobody uses, and from nothing else
func TestPressureTakesOnlyWhatNobodyUses(t *testing.T) {
	gone := map[string]uint32{ // seconds, where they differ
		"udp unreplied": 30, "udp almost forever": 30, "tcp syn sent": 30, "tcp in mid-stream": 30,
		"tcp never tracked": 30, "tcp time wait": 10, "tcp reset": 10,
	}
	for name, a := range agedSessions {
		t.Run(name, func(t *testing.T) {
			table := newTable(t, 10)
			ager := NewAger(table, Timeouts{}, nil, nil)
			defer ager.Close()
			r := a.begin(t, table, 0, 0)
			limit, early := gone[name]
			if !early {
				limit = a.seconds
			}
			for i := 1; i <= 8; i++ { // nine of ten: pressure; others that stay
				table.Session(open(t, table, flow(i))).Begin(limit * 10)
			}
			if !ager.Stats().Pressure {
				t.Fatal("no pressure")
			}
			ager.Sweep(limit*10, 100)
			if !table.Session(r).Live() {
				t.Fatalf("gone after %d s", limit)
			}
			ager.Sweep(limit*10+1, 100)
			if table.Session(r).Live() {
				t.Fatalf("there after %d s", limit)
			}
		})
	}
}

// Sessions whose owner is gone leave before their time. Those decided in the
// present epoch are not asked about.
func TestLostSessionsLeave(t *testing.T) {
	table := newTable(t, 10)
	expired := 0
	lost := func(s *Session) bool { return s.Port() == 2 }
	ager := NewAger(table, Timeouts{}, lost, func(*Session) { expired++ })
	defer ager.Close()
	ager.SetEpoch(7)
	for i, s := range []struct {
		port  uint16
		epoch uint32
	}{{1, 6}, {2, 6}, {2, 7}, {2, 0}} {
		r := table.Alloc()
		table.Session(r).SetKeys(flow(i), flow(i).Reverse())
		table.Session(r).SetPort(s.port)
		table.Session(r).SetDecision(s.epoch, 1, 1)
		if got, _ := table.Insert(r); got != Inserted {
			t.Fatal(got)
		}
	}
	if n := ager.Sweep(0, 100); n != 2 || expired != 2 || table.Live() != 2 {
		t.Errorf("%d removed, %d reported, %d live, want 2 each", n, expired, table.Live())
	}
}

// A full table of established connections refuses new ones and keeps the old.
func TestFullTableKeepsEstablished(t *testing.T) {
	table := newTable(t, 50)
	ager := NewAger(table, Timeouts{}, nil, nil)
	defer ager.Close()
	for i := range 50 {
		aged{proto: protoTCP, packets: handshake}.begin(t, table, i, 0)
	}
	for now := uint32(0); now <= 74_400; now += 5_000 {
		if table.Alloc() != 0 || ager.Sweep(now, 50) != 0 {
			t.Fatalf("an established connection made room at %d", now)
		}
	}
	stats := ager.Stats()
	if stats.Live != 50 || stats.Capacity != 50 || stats.Full != 15 || !stats.Pressure || stats.Census[TCP][TCPEstablished] != 50 {
		t.Errorf("%+v", stats)
	}
	if n := ager.Sweep(74_401, 50); n != 50 {
		t.Errorf("%d expired", n)
	}
	if table.Alloc() == 0 {
		t.Error("no room after all have expired")
	}
	if stats := ager.Stats(); stats.Live != 0 || stats.Expired != 50 || stats.Removed != 50 || stats.Pressure {
		t.Errorf("%+v", stats)
	}
}

// Small steps pass every record once a turn, and the census is of a whole turn.
func TestSweepInSteps(t *testing.T) {
	table := newTable(t, 100)
	ager := NewAger(table, Timeouts{}, nil, nil)
	defer ager.Close()
	for i := range 90 {
		k := flow(i)
		k.Proto = []uint8{protoTCP, protoUDP, protoICMP, 47}[i%4]
		table.Session(open(t, table, k)).Begin(0)
	}
	for range 9 {
		if ager.Stats().Census != (Census{}) {
			t.Fatal("census of half a turn")
		}
		ager.Sweep(1, 10)
	}
	c := ager.Stats().Census
	if c[TCP][Unreplied] != 23 || c[UDP][Unreplied] != 23 || c[ICMP][Unreplied] != 22 || c[OtherProtocol][Unreplied] != 22 {
		t.Errorf("census %v", c)
	}
	removed := 0
	for range 9 {
		removed += ager.Sweep(1_000_000, 10)
	}
	if removed != 90 {
		t.Errorf("%d removed in a turn", removed)
	}
}

// What expired is still whole when it is reported, and not handed out meanwhile.
func TestExpiredIsReportedWhole(t *testing.T) {
	table := newTable(t, 1)
	reported := false
	ager := NewAger(table, Timeouts{}, nil, func(s *Session) {
		reported = true
		if s.Key(Forward) != flow(1) || s.Created() != 5 || s.Port() != 3 || s.Live() {
			t.Errorf("reported %+v, created %d, port %d", s.Key(Forward), s.Created(), s.Port())
		}
		if table.find(flow(1)) != 0 || table.Alloc() != 0 {
			t.Error("still found, or handed out")
		}
	})
	defer ager.Close()
	r := table.Alloc()
	s := table.Session(r)
	s.SetKeys(flow(1), flow(1).Reverse())
	s.SetPort(3)
	s.Begin(5)
	table.Insert(r)
	if ager.Sweep(100_000, 1); !reported {
		t.Error("not reported")
	}
}

// A reader that found a session keeps it until it is quiet.
func TestGracePeriod(t *testing.T) {
	table := newTable(t, 1)
	reader := table.NewReader()
	r := open(t, table, flow(1))
	table.Remove(r)
	for range 3 {
		if table.Reclaim(1) != 0 || table.Alloc() != 0 {
			t.Fatal("reclaimed under a reader")
		}
	}
	if table.Session(r).Key(Forward) != flow(1) {
		t.Error("the record changed")
	}
	reader.Quiesce()
	if table.Reclaim(1) != 1 {
		t.Fatal("not reclaimed after the reader was quiet")
	}
	table.Remove(open(t, table, flow(2)))
	reader.Offline()
	if table.Reclaim(1) != 1 {
		t.Fatal("not reclaimed while the reader sleeps")
	}
	reader.Online()
	table.Remove(open(t, table, flow(3)))
	if table.Reclaim(1) != 0 {
		t.Fatal("reclaimed under a reader that woke up")
	}
	reader.Close()
	if table.Reclaim(1) != 1 {
		t.Fatal("not reclaimed after the reader has gone")
	}
}

// A decision is cleared before its epoch number can come round again.
func TestOldDecisionsAreCleared(t *testing.T) {
	table := newTable(t, 1)
	ager := NewAger(table, Timeouts{}, nil, nil)
	defer ager.Close()
	s := table.Session(open(t, table, flow(1)))
	const decided = EpochMask - 10 // the epoch wraps meanwhile
	s.SetDecision(decided, 3, 4)
	ager.SetEpoch(decided + staleEpochs)
	if ager.Sweep(0, 1); s.Decision() != NewDecision(decided, 3, 4) {
		t.Error("cleared too early")
	}
	ager.SetEpoch(decided + staleEpochs + 1)
	if ager.Sweep(0, 1); s.Decision() != 0 {
		t.Error("not cleared")
	}
}
