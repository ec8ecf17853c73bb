package flowtable

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// heap returns aligned memory of the Go heap, the only kind the race detector sees.
func heap(sessions int) []byte {
	words := make([]struct{ _ [bucketSize]byte }, MemorySize(sessions)/bucketSize+2)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*bucketSize)
	if off := uintptr(unsafe.Pointer(&b[0])) % bucketSize; off != 0 {
		b = b[bucketSize-off:]
	}
	return b
}

// newTable returns a table on the heap that closes itself.
func newTable(t testing.TB, sessions int) *Table {
	t.Helper()
	table, err := New(Config{Sessions: sessions, Seed: [2]uint64{1, 2}, Memory: heap(sessions)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return table
}

// flow returns the i-th of many different TCP flows between IPv4 hosts.
func flow(i int) Key {
	return Key{
		Src:     [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: byte(i >> 24), 14: byte(i >> 16), 15: 1},
		Dst:     [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 96, 14: 0, 15: 10},
		SrcPort: uint16(i), DstPort: 80, VRF: 1, Proto: protoTCP,
	}
}

// open allocates and inserts a session for k, whose replies come from a
// translated address.
func open(t testing.TB, table *Table, k Key) Ref {
	t.Helper()
	r := table.Alloc()
	if r == 0 {
		t.Fatal("no session left")
	}
	reply := k.Reverse()
	reply.Src[15]++
	table.Session(r).SetKeys(k, reply)
	got, other := table.Insert(r)
	if got != Inserted || other != r {
		t.Fatalf("Insert = %d, %d: want Inserted, %d", got, other, r)
	}
	return r
}

func (t *Table) find(k Key) Ref { return t.Lookup(&k, t.Hash(&k)) }

func TestLayout(t *testing.T) {
	var s Session
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"Key", unsafe.Sizeof(Key{}), 40},
		{"Session", unsafe.Sizeof(s), SessionSize},
		{"bucket", unsafe.Sizeof(bucket{}), bucketSize},
		{"header", unsafe.Sizeof(header{}), headerSize},
		{"header.free", unsafe.Offsetof(header{}.free), 64},
		{"header.limbo", unsafe.Offsetof(header{}.limbo), 128},
		{"half", unsafe.Sizeof(half{}), 32},
		{"addr", unsafe.Offsetof(s.addr), 32},
		{"ports", unsafe.Offsetof(s.ports), 96},
		{"decision", unsafe.Offsetof(s.decision), 104},
		{"attr", unsafe.Offsetof(s.attr), 116},
		{"reply", unsafe.Offsetof(s.reply), 128},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d bytes, want %d", c.name, c.got, c.want)
		}
	}
}

func TestBytesPerSession(t *testing.T) {
	for _, n := range []int{1024, 65_536, 1_000_000, 10_000_000, MaxSessions} {
		if got := MemorySize(n); got > sessionBudget*n {
			t.Errorf("%d sessions take %d bytes, %.2f each: want at most %d", n, got, float64(got)/float64(n), sessionBudget)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		says   string
	}{
		"no sessions":  {Config{}, "Sessions is 0"},
		"negative":     {Config{Sessions: -1}, "Sessions is -1"},
		"too many":     {Config{Sessions: 1 << 31}, "want 1 to 2147483646"},
		"short memory": {Config{Sessions: 100, Memory: heap(10)}, "MemorySize"},
		"askew memory": {Config{Sessions: 100, Memory: heap(200)[8:]}, "64-byte aligned"},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := New(c.config)
			if err == nil {
				_ = table.Close()
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
		})
	}
}

// A table is found again, byte for byte, by who maps its memory file elsewhere.
func TestMemfd(t *testing.T) {
	table, err := New(Config{Sessions: 1000, Memfd: true})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	r := open(t, table, flow(1))
	other, err := unix.Mmap(int(table.File().Fd()), 0, MemorySize(1000), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(other); err != nil {
			t.Error(err)
		}
	}()
	view := region{memory: other}
	view.cut(1000, bucketCount(1000))
	if view.header.magic != regionMagic || view.header.size != uint64(len(other)) {
		t.Errorf("header %#x, size %d", view.header.magic, view.header.size)
	}
	if got := view.sessions[r.Index()].Key(Forward); got != flow(1) {
		t.Errorf("key %+v", got)
	}
}

// Every record can be used, and every key of a full table is found.
func TestFull(t *testing.T) {
	for _, n := range []int{1, 7, 64, 1000, 100_000} {
		table, err := New(Config{Sessions: n})
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			open(t, table, flow(i))
		}
		if r := table.Alloc(); r != 0 {
			t.Errorf("%d sessions: one more was allocated", n)
		}
		for i := range n {
			r := table.find(flow(i))
			if r == 0 || r.Direction() != Forward || table.Session(r).Key(Forward) != flow(i) {
				t.Fatalf("%d sessions: flow %d found at %d", n, i, r)
			}
			reply := table.Session(r).Key(Reply)
			if table.find(reply) != r.Other() {
				t.Fatalf("%d sessions: reply of flow %d is lost", n, i)
			}
		}
		if table.Live() != n || table.Capacity() != n {
			t.Errorf("live %d of %d, want %d", table.Live(), table.Capacity(), n)
		}
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestKeyReverse(t *testing.T) {
	k := Key{Src: [16]byte{1}, Dst: [16]byte{2}, SrcPort: 3, DstPort: 4, VRF: 5, Proto: 6}
	want := Key{Src: [16]byte{2}, Dst: [16]byte{1}, SrcPort: 4, DstPort: 3, VRF: 5, Proto: 6}
	if k.Reverse() != want || k.Reverse().Reverse() != k {
		t.Errorf("Reverse = %+v", k.Reverse())
	}
}

// Each bit of a key changes about half of the hash, and another seed changes the
// order of everything.
func TestHashSpreads(t *testing.T) {
	a, b := newTable(t, 10), newTable(t, 10)
	b.seed[0] ^= 2
	rng := rand.New(rand.NewPCG(1, 2))
	flips := make([]int, 39*8)
	const rounds = 400
	for range rounds {
		var raw [39]byte
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		k := keyOf(raw)
		h := a.Hash(&k)
		if h == b.Hash(&k) {
			t.Fatal("the seed does not matter")
		}
		for bit := range flips {
			raw[bit/8] ^= 1 << (bit % 8)
			k := keyOf(raw)
			flips[bit] += popcount(h ^ a.Hash(&k))
			raw[bit/8] ^= 1 << (bit % 8)
		}
	}
	for bit, n := range flips {
		if mean := float64(n) / rounds; mean < 28 || mean > 36 {
			t.Errorf("key bit %d changes %.1f of 64 hash bits", bit, mean)
		}
	}
}

func keyOf(b [39]byte) (k Key) {
	copy(k.Src[:], b[:])
	copy(k.Dst[:], b[16:])
	k.SrcPort, k.DstPort = uint16(b[32])|uint16(b[33])<<8, uint16(b[34])|uint16(b[35])<<8
	k.VRF, k.Proto = uint16(b[36])|uint16(b[37])<<8, b[38]
	return k
}

func popcount(x uint64) (n int) {
	for ; x != 0; x &= x - 1 {
		n++
	}
	return n
}

// The assembly and the Go form of the prefetch find the same, hits and misses alike.
func TestPrefetchHints(t *testing.T) {
	table := newTable(t, 5000)
	var hashes []uint64
	for i := range 6000 {
		k := flow(i)
		if i < 5000 {
			r := open(t, table, k)
			k = table.Session(r).Key(Direction(i % 2))
		}
		hashes = append(hashes, table.Hash(&k))
	}
	for i := range 256 { // signature 0 is that of an empty slot, and of a bucket's meta word
		hashes = append(hashes, uint64(i)<<56)
	}
	hints, want := make([]Ref, len(hashes)), make([]Ref, len(hashes))
	for from := 0; from < len(hashes); from += 1 + from%7 {
		to := min(from+1+from%7, len(hashes))
		table.PrefetchBuckets(hashes[from:to])
		table.PrefetchSessions(hashes[from:to], hints[from:to], from%2 == 0)
	}
	table.touchBuckets(hashes)
	table.touchSessions(hashes, want)
	good := 0
	for i := range hashes {
		if hints[i] != want[i] {
			t.Fatalf("hint %d is %d, in Go %d", i, hints[i], want[i])
		}
		if i < 5000 && hints[i] != 0 {
			good++
		}
	}
	if good < 4500 { // some twentieth of a full table lies in further buckets
		t.Errorf("%d of 5000 live sessions were hinted", good)
	}
	table.PrefetchBuckets(nil)
	table.PrefetchSessions(nil, nil, false)
}

func TestLookupHintIsRightWhateverTheHint(t *testing.T) {
	table := newTable(t, 100)
	r, other := open(t, table, flow(1)), open(t, table, flow(2))
	k := flow(1)
	for _, hint := range []Ref{0, r, r.Other(), other} {
		if got := table.LookupHint(&k, table.Hash(&k), hint); got != r {
			t.Errorf("hint %d: found %d, want %d", hint, got, r)
		}
	}
	table.Remove(r)
	if got := table.LookupHint(&k, table.Hash(&k), r); got != 0 {
		t.Errorf("found the removed session %d", got)
	}
}

// Keys that differ in any one field are different connections.
func TestLookupComparesEveryField(t *testing.T) {
	table := newTable(t, 10)
	r := open(t, table, flow(1))
	for name, change := range map[string]func(*Key){
		"source":           func(k *Key) { k.Src[0]++ },
		"destination":      func(k *Key) { k.Dst[15]++ },
		"source port":      func(k *Key) { k.SrcPort++ },
		"destination port": func(k *Key) { k.DstPort++ },
		"VRF":              func(k *Key) { k.VRF++ },
		"protocol":         func(k *Key) { k.Proto++ },
	} {
		k := flow(1)
		hash := table.Hash(&k) // as if the hashes were equal
		change(&k)
		if got := table.Lookup(&k, hash); got != 0 {
			t.Errorf("another %s: found %d", name, got)
		}
		if got := table.LookupHint(&k, hash, r); got != 0 {
			t.Errorf("another %s: hint accepted", name)
		}
	}
}

func TestSessionFields(t *testing.T) {
	table := newTable(t, 10)
	r := table.Alloc()
	s := table.Session(r)
	forward, reply := flow(1), flow(1).Reverse()
	s.SetKeys(forward, reply)
	reply.Src[15], reply.VRF = 77, 9
	s.SetPort(4321)
	reply.DstPort++
	s.SetKeys(forward, reply)
	s.Begin(100)
	s.SetMember(7)
	s.SetRule(8)
	s.SetDecision(1<<24+5, 1<<20-1, 42)
	if got, _ := table.Insert(r); got != Inserted {
		t.Fatal(got)
	}
	s.Count(Forward, 60, 1)
	s.Count(Reply, 1500, 2)
	s.Seen(130)
	if s.Key(Forward) != forward || s.Key(Reply) != reply {
		t.Errorf("keys: %+v %+v", s.Key(Forward), s.Key(Reply))
	}
	if s.Port() != 4321 || s.Member() != 7 || s.Rule() != 8 || s.Proto() != protoTCP || !s.Live() {
		t.Errorf("port %d member %d rule %d proto %d", s.Port(), s.Member(), s.Rule(), s.Proto())
	}
	d := s.Decision()
	if d.Epoch() != 5 || d.NextHop(Forward) != 1<<20-1 || d.NextHop(Reply) != 42 {
		t.Errorf("decision %d %d %d", d.Epoch(), d.NextHop(Forward), d.NextHop(Reply))
	}
	if s.SwapDecision(0, 1) || !s.SwapDecision(d, NewDecision(6, 1, 2)) || s.Decision() != NewDecision(6, 1, 2) {
		t.Error("SwapDecision")
	}
	if s.Age(150) != 50 || s.Idle(150) != 20 || s.Idle(120) != 0 || s.Created() != 100 || s.LastSeen() != 130 {
		t.Errorf("age %d idle %d", s.Age(150), s.Idle(150))
	}
	if bytes, packets := s.Counters(Reply); bytes != 1500 || packets != 2 {
		t.Errorf("reply counters %d %d", bytes, packets)
	}
	if bytes, packets := s.Counters(Forward); bytes != 60 || packets != 1 {
		t.Errorf("forward counters %d %d", bytes, packets)
	}
}

// A record comes back from Alloc with nothing of its last session in it.
func TestReuseIsClean(t *testing.T) {
	table := newTable(t, 1)
	r := table.Alloc()
	dirty := func() {
		s := table.Session(r)
		s.SetKeys(flow(1), flow(2))
		s.SetPort(1)
		s.SetMember(2)
		s.SetRule(3)
		s.SetDecision(4, 5, 6)
		s.Begin(7)
		for d := range Direction(2) {
			s.Count(d, 8, 9)
			s.TrackTCP(d, 10, 11, 12, flagACK, 13, nil)
		}
	}
	clean := func(after string) {
		t.Helper()
		if table.Alloc() != r {
			t.Fatalf("after %s: not the record", after)
		}
		if raw := *(*[SessionSize]byte)(unsafe.Pointer(table.Session(r))); raw != [SessionSize]byte{} {
			t.Errorf("after %s: %v", after, raw)
		}
	}
	dirty()
	table.Free(r)
	clean("Free")
	dirty()
	table.Insert(r)
	table.Remove(r)
	table.Reclaim(10)
	clean("Remove")
}

func TestNoAllocations(t *testing.T) {
	table := newTable(t, 1000)
	reader := table.NewReader()
	defer reader.Close()
	hashes, hints := make([]uint64, 64), make([]Ref, 64)
	i := 0
	if n := testing.AllocsPerRun(100, func() {
		i++
		k := flow(i)
		h := table.Hash(&k)
		reader.Free(reader.Alloc())
		r := reader.Alloc()
		s := table.Session(r)
		s.SetKeys(k, k.Reverse())
		reader.Insert(r)
		hashes[0] = h
		table.PrefetchBuckets(hashes)
		table.PrefetchSessions(hashes, hints, true)
		table.LookupHint(&k, h, hints[0])
		s.Seen(1)
		s.Count(Forward, 1, 1)
		s.TrackTCP(Forward, 1, 1, 1, flagSYN, 1, nil)
		reader.Remove(r)
		reader.Quiesce()
		table.Reclaim(64)
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}

// What one worker keeps at hand is lost to nobody: it gets every record itself,
// and gives back what it does not use when it sleeps.
func TestReaderGivesSparesBack(t *testing.T) {
	const n = spareRecords + 3
	table := newTable(t, n)
	reader := table.NewReader()
	for i := range n {
		k := flow(i)
		r := reader.Alloc()
		if r == 0 {
			t.Fatalf("%d of %d records", i, n)
		}
		table.Session(r).SetKeys(k, k.Reverse())
		if got, _ := reader.Insert(r); got != Inserted {
			t.Fatal(got)
		}
	}
	if reader.Alloc() != 0 || table.Live() != n {
		t.Errorf("one too many, or %d live", table.Live())
	}
	for i := range n {
		if r := table.find(flow(i)); !reader.Remove(r) || reader.Remove(r) {
			t.Fatal("Remove is not true just once")
		}
	}
	reader.Quiesce()
	table.Reclaim(n)
	reader.Quiesce()
	if got := table.Reclaim(n); got != n {
		t.Fatalf("%d reclaimed", got)
	}
	reader.Free(reader.Alloc())
	reader.Offline()
	for i := range n {
		if table.Alloc() == 0 {
			t.Fatalf("%d of %d records came back", i, n)
		}
	}
	reader.Close()
	if table.Live() != 0 {
		t.Errorf("%d live", table.Live())
	}
}
