package nexthop

import (
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// modelFIB is a list of routes that is read from end to end.
type modelFIB []struct {
	prefix netip.Prefix
	route  Route
}

func (m modelFIB) lookup(addr netip.Addr) (route Route, prefix netip.Prefix, ok bool) {
	for _, e := range m {
		if e.prefix.Contains(addr) && (!ok || e.prefix.Bits() > prefix.Bits()) {
			route, prefix, ok = e.route, e.prefix, true
		}
	}
	return route, prefix, ok
}

// randomAddr is IPv4 or IPv6 in a small space, so that prefixes meet addresses.
func randomAddr(r *rand.Rand, is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(256)), byte(r.IntN(256))})
	}
	a := [16]byte{0xfd, 1: byte(r.IntN(2))}
	for i := 5; i < 16; i++ {
		a[i] = byte(r.IntN(4))
	}
	return netip.AddrFrom16(a)
}

func randomPrefix(r *rand.Rand) netip.Prefix {
	a := randomAddr(r, r.IntN(2) == 0)
	return netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
}

func randomRoutes(n int) map[netip.Prefix]Route {
	r := rand.New(rand.NewPCG(1, 2))
	m := make(map[netip.Prefix]Route, n)
	for i := range n {
		m[randomPrefix(r)] = Route{NextHop: FirstID + ID(i), Network: uint32(i % 9)}
	}
	return m
}

func randomFIB(n int) *FIB { return NewFIB(maps.All(randomRoutes(n))) }

func TestFIBLikeModel(t *testing.T) {
	routes := randomRoutes(3000)
	var model modelFIB
	for p, route := range routes {
		model = append(model, struct {
			prefix netip.Prefix
			route  Route
		}{p, route})
	}
	fib, r := NewFIB(maps.All(routes)), rand.New(rand.NewPCG(3, 4))
	if fib.Len() != len(routes) {
		t.Fatalf("Len = %d, want %d", fib.Len(), len(routes))
	}
	for i := range 10_000 {
		addr := randomAddr(r, i%2 == 0)
		key := addr.As16()
		wantRoute, wantPrefix, want := model.lookup(addr)
		route, ok := fib.Lookup(&key)
		if route != wantRoute || ok != want {
			t.Fatalf("Lookup(%v) = %v %v, want %v %v by %v", addr, route, ok, wantRoute, want, wantPrefix)
		}
		route, prefix, ok := fib.LookupPrefix(&key)
		if route != wantRoute || prefix != wantPrefix || ok != want {
			t.Fatalf("LookupPrefix(%v) = %v %v %v, want %v %v %v", addr, route, prefix, ok, wantRoute, wantPrefix, want)
		}
	}
}

// TestFIBPersists changes a FIB step by step and checks every version it ever
// had against a copy of the routes of that time.
func TestFIBPersists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		type version struct {
			fib    *FIB
			routes map[netip.Prefix]Route
		}
		versions := []version{{nil, map[netip.Prefix]Route{}}}
		for i := range 40 {
			last := versions[len(versions)-1]
			routes, p := maps.Clone(last.routes), randomPrefix(r)
			if i%3 == 2 {
				for p = range routes {
					break
				}
				delete(routes, p)
				versions = append(versions, version{last.fib.Without(p), routes})
			} else {
				routes[p] = Route{NextHop: ID(i)}
				versions = append(versions, version{last.fib.With(p, routes[p]), routes})
			}
		}
		for i, v := range versions {
			if got := maps.Collect(v.fib.All()); !maps.Equal(got, v.routes) || v.fib.Len() != len(v.routes) {
				t.Fatalf("version %d has %v, want %v", i, got, v.routes)
			}
		}
	})
}

func TestFIBEdges(t *testing.T) {
	var empty *FIB
	v4, v6 := netip.MustParseAddr("10.1.2.3").As16(), netip.MustParseAddr("fd00::1").As16()
	if _, ok := empty.Lookup(&v4); ok || empty.Len() != 0 || empty.Without(netip.MustParsePrefix("10.0.0.0/8")) != empty {
		t.Error("a nil FIB is empty")
	}
	if _, _, ok := empty.LookupPrefix(&v4); ok {
		t.Error("a nil FIB is empty")
	}
	for p := range empty.All() {
		t.Errorf("a nil FIB yields %v", p)
	}
	f := empty.With(netip.MustParsePrefix("::/0"), Route{NextHop: 300})
	if _, ok := f.Lookup(&v4); ok {
		t.Error("::/0 answers for an IPv4 address")
	}
	if r, ok := f.Lookup(&v6); !ok || r.NextHop != 300 {
		t.Errorf("::/0: %v %v", r, ok)
	}
	// A v4-mapped prefix and host bits name the IPv4 route.
	f = f.With(netip.MustParsePrefix("::ffff:10.1.2.3/104"), Route{NextHop: 301})
	if r, p, ok := f.LookupPrefix(&v4); !ok || r.NextHop != 301 || p != netip.MustParsePrefix("10.0.0.0/8") {
		t.Errorf("mapped prefix: %v %v %v", r, p, ok)
	}
	if r, ok := f.Get(netip.MustParsePrefix("10.9.9.9/8")); !ok || r.NextHop != 301 {
		t.Errorf("Get with host bits: %v %v", r, ok)
	}
	if f.With(netip.Prefix{}, Route{}) != f || f.Without(netip.Prefix{}) != f {
		t.Error("an invalid prefix changes nothing")
	}
	if NewFIB(maps.All(map[netip.Prefix]Route{{}: {}})).Len() != 0 {
		t.Error("an invalid prefix is skipped")
	}
}

// pods is n host routes, as pods and services make them.
func pods(n int) iter.Seq2[netip.Prefix, Route] {
	return func(yield func(netip.Prefix, Route) bool) {
		for i := range n {
			a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			if !yield(netip.PrefixFrom(a, 32), Route{NextHop: FirstID + ID(i)&0xffff}) {
				return
			}
		}
	}
}

func BenchmarkFIB(b *testing.B) {
	for _, n := range []int{1, 100, 10_000, 100_000, 1_000_000} {
		fib := NewFIB(pods(n))
		b.Run("lookup/"+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			key, r := netip.MustParseAddr("10.0.0.0").As16(), rand.New(rand.NewPCG(1, 1))
			for b.Loop() {
				i := r.IntN(n)
				key[13], key[14], key[15] = byte(i>>16), byte(i>>8), byte(i)
				fib.Lookup(&key)
			}
		})
		b.Run("change one/"+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			p := netip.MustParsePrefix("10.0.77.7/32")
			for b.Loop() {
				fib.With(p, Route{NextHop: 999})
			}
		})
	}
	b.Run("build/100000", func(b *testing.B) {
		for b.Loop() {
			NewFIB(pods(100_000))
		}
	})
}
