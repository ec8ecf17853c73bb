package nexthop

import (
	"errors"
	"testing"
	"unsafe"
)

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"NextHop", unsafe.Sizeof(NextHop{}), 12},
		{"Route", unsafe.Sizeof(Route{}), 8},
		{"Member", unsafe.Sizeof(Member{}), 32},
		{"runner", unsafe.Sizeof(runner{}), 16},
		{"affinityEntry", unsafe.Sizeof(affinityEntry{}), 28},
		{"affinityBucket", unsafe.Sizeof(affinityBucket{}), 128},
	} {
		if c.got != c.want {
			t.Errorf("%s is %d bytes, its comment says %d", c.name, c.got, c.want)
		}
	}
}

func TestTable(t *testing.T) {
	if h := (Table{}).At(300); h != (NextHop{}) {
		t.Errorf("the zero table answers %+v, want a discard", h)
	}
	in := []NextHop{{Kind: Interface, Port: 7}, {Kind: FloatingIP, Index: 3}}
	table, err := NewTable(in)
	if err != nil {
		t.Fatal(err)
	}
	in[0].Port = 9
	for _, c := range []struct {
		id   ID
		want NextHop
	}{
		{0, NextHop{Kind: Discard}},
		{17, NextHop{Kind: Discard, Index: 17}},
		{FirstID, NextHop{Kind: Interface, Port: 7}},
		{FirstID + 1, NextHop{Kind: FloatingIP, Index: 3}},
		{FirstID + 2, NextHop{}},
		{MaxID, NextHop{}},
		{^ID(0), NextHop{}},
	} {
		if got := table.At(c.id); got != c.want {
			t.Errorf("At(%d) = %+v, want %+v", c.id, got, c.want)
		}
	}
	if table.Len() != 258 {
		t.Errorf("Len = %d, want 258", table.Len())
	}
	if !ID(255).IsDiscard() || FirstID.IsDiscard() {
		t.Error("discards are the ids below 256")
	}
	if _, err := NewTable(make([]NextHop, MaxID)); !errors.Is(err, ErrTooManyNextHops) {
		t.Errorf("a table beyond 20 bits: error %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{Discard.String(), "discard"}, {FloatingIP.String(), "floating-ip"}, {Kind(77).String(), "kind(77)"},
		{Serving.String(), "serving"}, {State(77).String(), "state(77)"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// TestNoAllocation pins what workers call to zero allocations.
func TestNoAllocation(t *testing.T) {
	fib := randomFIB(2000)
	narrow, wide := mustGroup(t, equalMembers(8)), mustGroup(t, weightedMembers(500))
	affinity := NewAffinity(1024)
	src, dst := [16]byte{10: 0xff, 11: 0xff, 12: 10}, [16]byte{0: 0xfd, 15: 1}
	table, _ := NewTable(make([]NextHop, 4))
	var now uint32
	for name, f := range map[string]func(){
		"Table.At":         func() { table.At(257) },
		"FIB.Lookup v4":    func() { fib.Lookup(&src) },
		"FIB.Lookup v6":    func() { fib.Lookup(&dst) },
		"FIB.LookupPrefix": func() { fib.LookupPrefix(&src) },
		"Select":           func() { narrow.Select(flowHash(int(now))) },
		"Select wide":      func() { wide.Select(flowHash(int(now))) },
		"Find":             func() { wide.Find(now) },
		"HashTuple":        func() { HashTuple(HashAll, &src, &dst, uint16(now), 80, 6) },
		"Affinity.Get":     func() { affinity.Get(&src, now%7+1, now) },
		"Affinity.Put":     func() { affinity.Put(&src, now%7+1, 4, now, 100) },
	} {
		if n := testing.AllocsPerRun(200, func() { now++; f() }); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}
