package attach

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// stateOf makes a state of resources in their JSON form.
func stateOf(t testing.TB, texts ...string) *state.State {
	t.Helper()
	st := state.New()
	change(t, st, nil, texts...)
	return st
}

func change(t testing.TB, st *state.State, deletes []state.Key, texts ...string) {
	t.Helper()
	req := state.Request{Owner: "test", Deletes: deletes}
	for _, text := range texts {
		r := &pb.Resource{}
		if err := protojson.Unmarshal([]byte(text), r); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		req.Upserts = append(req.Upserts, r)
	}
	tx, err := st.Begin(req)
	if err != nil {
		t.Fatal(err)
	}
	tx.Commit()
}

func attachment(name, network, address string) string {
	return fmt.Sprintf(`{"name":%q,"attachment":{"uid":"u","containerId":"c","netns":"/run/netns/%[1]s","virtualNetwork":%[2]q,"addresses":[%[3]q]}}`, name, network, address)
}

// small are two networks with one small subnet, of which .0 and .15 are its ends, .1 is
// the gateway, .2 an InstanceIP, .3 a floating IP, .4 an interface's.
var small = []string{
	`{"name":"a","virtualNetwork":{"subnets":[{"prefix":"10.0.0.0/28","gateway":"10.0.0.1"},{"prefix":"fd00::/124","gateway":"fd00::1"}]}}`,
	`{"name":"b","virtualNetwork":{"subnets":[{"prefix":"10.0.0.0/28","gateway":"10.0.0.1"},{"prefix":"fd00::/124","gateway":"fd00::1"}]}}`,
	`{"name":"held","instanceIp":{"virtualNetwork":"b","address":"10.0.0.2"}}`,
	`{"name":"vmi","virtualMachineInterface":{"virtualNetwork":"b","addresses":["10.0.0.4"]}}`,
	`{"name":"fip","floatingIp":{"virtualNetwork":"a","address":"10.0.0.3","virtualMachineInterfaces":["vmi"]}}`,
}

// TestPoolAgainstModel lets a set of addresses judge what the pools of two networks
// give: never what somebody has, everything before it says that there is nothing, and
// what has become free last of all.
func TestPoolAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		st, pools := stateOf(t, small...), NewPools()
		taken := map[string]bool{} // by attachments
		var freed []string         // in the order in which they became free
		for step := range rapid.IntRange(1, 80).Draw(rt, "steps") {
			v4 := rapid.Bool().Draw(rt, "v4")
			total, kind := 10, "10.0.0." // 5 to 14
			if !v4 {
				total, kind = 14, "fd00::" // 2 to f
			}
			mine := 0
			for a := range taken {
				if netip.MustParseAddr(a).Is4() == v4 {
					mine++
				}
			}
			if rapid.IntRange(0, 2).Draw(rt, "free") == 0 && len(taken) > 0 {
				name := rapid.SampledFrom(st.Names(state.Attachment)).Draw(rt, "which")
				a := st.Get(state.Key{Kind: state.Attachment, Name: name}).GetAttachment().GetAddresses()[0]
				delete(taken, a)
				freed = append(freed, a)
				pools.Freed(st.Get(state.Key{Kind: state.Attachment, Name: name}).GetAttachment(), nil)
				change(t, st, []state.Key{{Kind: state.Attachment, Name: name}})
				continue
			}
			network := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "network")
			a, err := pools.Give(st, network, v4)
			if mine == total {
				if status.Code(err) != codes.ResourceExhausted {
					rt.Fatalf("all %d are taken, and %v, %v is given", total, a, err)
				}
				continue
			}
			if err != nil {
				rt.Fatalf("%d of %d are taken: %v", mine, total, err)
			}
			last := a.AsSlice()[a.BitLen()/8-1]
			if taken[a.String()] || a.Is4() != v4 || !netip.MustParsePrefix(map[bool]string{true: "10.0.0.0/28", false: "fd00::/124"}[v4]).Contains(a) ||
				last < 2 || v4 && (last < 5 || last == 15) {
				rt.Fatalf("%v is given (%s), and %v are taken", a, kind, taken)
			}
			// Those that were free all the time come first, then those longest free.
			waiting := slices.DeleteFunc(slices.Clone(freed), func(s string) bool { return netip.MustParseAddr(s).Is4() != v4 })
			if i := slices.Index(waiting, a.String()); i > 0 || i == 0 && mine+len(waiting) < total {
				rt.Fatalf("%v is given, with %d of %d taken; became free in this order: %v", a, mine, total, waiting)
			}
			freed = slices.DeleteFunc(freed, func(s string) bool { return s == a.String() })
			taken[a.String()] = true
			change(t, st, nil, attachment(fmt.Sprintf("x%d", step), network, a.String()))
		}
	})
}

// TestPoolsGoOnBehindTheNewest holds that a restart does not give an address at once
// that was free a moment ago: pools begin behind the last that the state has.
func TestPoolsGoOnBehindTheNewest(t *testing.T) {
	st := stateOf(t, small...)
	change(t, st, nil, attachment("one", "a", "10.0.0.9"))
	change(t, st, nil, attachment("two", "a", "10.0.0.6"))
	for i, want := range []string{"10.0.0.7", "10.0.0.8", "10.0.0.10"} {
		a, err := NewPools().Give(st, "b", true)
		if err != nil || a.String() != want {
			t.Fatalf("%v, %v; want %s", a, err, want)
		}
		change(t, st, nil, attachment(fmt.Sprint("more", i), "b", a.String()))
	}
}

// TestPoolsOfAllSizes gives from pools that have hardly any address, and from one that
// nobody could walk through.
func TestPoolsOfAllSizes(t *testing.T) {
	for _, c := range []struct {
		network string
		v4      bool
		want    []string
	}{
		{`{"subnets":[{"prefix":"10.0.0.0/31"}]}`, true, []string{"10.0.0.1", "10.0.0.0", ""}},
		{`{"subnets":[{"prefix":"10.0.0.7/32"}]}`, true, []string{"10.0.0.7", ""}},
		{`{"subnets":[{"prefix":"10.0.0.0/30","gateway":"10.0.0.2"}]}`, true, []string{"10.0.0.1", ""}},
		{`{"subnets":[{"prefix":"fd00::/127"}]}`, false, []string{"fd00::1", "fd00::", ""}},
		{`{"subnets":[{"prefix":"fd00::/64","gateway":"fd00::1"}]}`, false, []string{"fd00::2", "fd00::3"}},
		{`{"subnets":[{"prefix":"fd00::/64"},{"prefix":"10.0.0.0/24"}],"pools":["10.0.0.8/31","10.0.0.2/32"]}`, true, []string{"10.0.0.9", "10.0.0.8", "10.0.0.2", ""}},
		{`{"subnets":[{"prefix":"fd00::/64"},{"prefix":"10.0.0.0/24"}],"pools":["10.0.0.8/31"]}`, false, []string{""}},
		{`{"subnets":[{"prefix":"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127"}]}`, false, []string{""}}, // multicast
		{`{}`, true, []string{""}},
	} {
		st := state.New()
		if tx, err := st.Begin(state.Request{Owner: "test", Upserts: []*pb.Resource{network(t, c.network)}}); err == nil {
			tx.Commit()
		}
		pools := NewPools()
		for i, want := range c.want {
			a, err := pools.Give(st, "n", c.v4)
			if want == "" && status.Code(err) == codes.ResourceExhausted {
				continue
			}
			if err != nil || a.String() != want {
				t.Fatalf("%s: %v, %v; want %q", c.network, a, err, want)
			}
			change(t, st, nil, attachment(fmt.Sprint("x", i), "n", a.String()))
		}
	}
}

func network(t *testing.T, spec string) *pb.Resource {
	t.Helper()
	r := &pb.Resource{}
	if err := protojson.Unmarshal([]byte(`{"name":"n","virtualNetwork":`+spec+`}`), r); err != nil {
		t.Fatal(err)
	}
	return r
}
