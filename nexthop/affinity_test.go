package nexthop

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"
)

func client(n int) *[16]byte {
	c := [16]byte{10: 0xff, 11: 0xff, 12: 10}
	binary.BigEndian.PutUint16(c[14:], uint16(n))
	c[13] = byte(n >> 16)
	return &c
}

func TestAffinityLifetime(t *testing.T) {
	const service, timeout = 1, 50
	a := NewAffinity(64)
	get := func(now uint32, want uint32, wantOK bool) {
		t.Helper()
		if m, ok := a.Get(client(1), service, now); m != want || ok != wantOK {
			t.Errorf("tick %d: member %d %v, want %d %v", now, m, ok, want, wantOK)
		}
	}
	get(100, 0, false)
	a.Put(client(1), service, 7, 100, timeout)
	get(100, 7, true)
	get(149, 7, true)
	get(150, 0, false) // it ends after the timeout
	a.Put(client(1), service, 8, 160, timeout)
	a.Put(client(1), service, 8, 200, timeout) // a new connection refreshes it
	get(249, 8, true)
	get(250, 0, false)
	a.Put(client(1), service, 9, 240, timeout)
	if _, ok := a.Get(client(2), service, 241); ok {
		t.Error("another client has it too")
	}
	if _, ok := a.Get(client(1), service+1, 241); ok {
		t.Error("another service has it too; affinity switched off and on gets a new id")
	}
	if n := a.Live(241); n != 1 {
		t.Errorf("%d in force, want 1", n)
	}
	if a.Evictions() != 0 {
		t.Errorf("%d evictions, want 0", a.Evictions())
	}
}

// TestAffinityWrap: ticks wrap after 13 years.
func TestAffinityWrap(t *testing.T) {
	now := ^uint32(0) - 10
	a := NewAffinity(4)
	a.Put(client(1), 1, 7, now, 100)
	if m, ok := a.Get(client(1), 1, now+99); !ok || m != 7 {
		t.Errorf("after the wrap: %d %v", m, ok)
	}
	if _, ok := a.Get(client(1), 1, now+100); ok {
		t.Error("it does not end after the wrap")
	}
}

// TestAffinityEvicts: in a full bucket the one that would run out first gives
// way and is counted; expired ones are not.
func TestAffinityEvicts(t *testing.T) {
	a := NewAffinity(affinityWays) // one bucket
	for i := range affinityWays {
		a.Put(client(i), 1, uint32(i), 0, 100-uint32(i))
	}
	a.Put(client(9), 1, 9, 1, 100)
	if _, ok := a.Get(client(affinityWays-1), 1, 1); ok || a.Evictions() != 1 {
		t.Errorf("the entry with the least time left stays, or %d evictions, want 1", a.Evictions())
	}
	for i := range affinityWays - 1 {
		if _, ok := a.Get(client(i), 1, 1); !ok {
			t.Errorf("client %d lost its member", i)
		}
	}
	a.Put(client(10), 1, 10, 99, 100) // client 2 ran out at 98
	if a.Evictions() != 1 {
		t.Errorf("%d evictions after an entry ran out, want 1", a.Evictions())
	}
	if a.Bytes() != 128 {
		t.Errorf("%d bytes, want 128", a.Bytes())
	}
}

// TestAffinityLikeModel compares a table large enough with a map.
func TestAffinityLikeModel(t *testing.T) {
	type key struct {
		client  [16]byte
		service uint32
	}
	type entry struct{ member, expires uint32 }
	a, model, r := NewAffinity(1<<14), map[key]entry{}, rand.New(rand.NewPCG(7, 8))
	for now := range uint32(20_000) {
		k := key{*client(r.IntN(200)), uint32(r.IntN(3) + 1)}
		if r.IntN(2) == 0 {
			member, timeout := r.Uint32(), uint32(r.IntN(2000)+1)
			a.Put(&k.client, k.service, member, now, timeout)
			model[k] = entry{member, now + timeout}
			continue
		}
		e, want := model[k]
		want = want && e.expires > now
		if m, ok := a.Get(&k.client, k.service, now); ok != want || ok && m != e.member {
			t.Fatalf("tick %d: member %d %v, want %d %v", now, m, ok, e.member, want)
		}
	}
	if a.Evictions() != 0 {
		t.Errorf("%d evictions", a.Evictions())
	}
}

// TestAffinityWorkers: several workers on few buckets; a reader sees a member
// that somebody wrote for that client, never a mix.
func TestAffinityWorkers(t *testing.T) {
	a := NewAffinity(8)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range 20_000 {
				c := r.IntN(12)
				if m, ok := a.Get(client(c), 1, uint32(i)); ok && m != uint32(c)*10 {
					t.Errorf("client %d has member %d", c, m)
					return
				}
				a.Put(client(c), 1, uint32(c)*10, uint32(i), 100)
				if i%5000 == 0 {
					a.Live(uint32(i))
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkAffinity(b *testing.B) {
	a := NewAffinity(1 << 16)
	for i := range 1 << 15 {
		a.Put(client(i), 1, uint32(i), 0, 1000)
	}
	b.Run("get", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			a.Get(client(i&0x7fff), 1, 1)
		}
	})
	b.Run("put", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			a.Put(client(i&0x7fff), 1, 1, 1, 1000)
		}
	})
}
