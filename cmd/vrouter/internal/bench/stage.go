package bench

import (
	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// A stage is one step of the path alone, called through the API of its package on
// what stands in the rig. What it works on is prepared outside the time.

// stage times n calls of step, in batches as the forwarder has them. prepare is
// told the number of calls and returns how to make those of one batch; what they
// return is kept.
func stage(prepare func(r *rig, n int) func(from, to int) uint64) func(*rig, int) (sample, error) {
	return func(r *rig, n int) (sample, error) {
		step := prepare(r, n)
		start := cpuTime()
		for from := 0; from < n; from += port.BatchSize {
			r.kept += step(from, min(from+port.BatchSize, n))
		}
		ns := float64(cpuTime()-start) / float64(n)
		return sample{value: ns, detail: map[string]float64{"perSecond": 1e9 / ns}}, nil
	}
}

// anyFlow is how many flows there are for stages that need no session.
const anyFlow = 1 << 30

// keys returns the keys of n packets, of random ones among so many flows.
func (r *rig) keys(t traffic, n, flows int) []flowtable.Key {
	r.gen.flows = uint32(max(flows, 1))
	list := make([]flowtable.Key, n)
	for i := range list {
		list[i] = t.key(r.gen.choose())
	}
	return list
}

// parse is header.Parse of frames that the cache holds.
func parse(r *rig, _ int) func(int, int) uint64 {
	r.gen.load(r.traffic(r.standing), len(r.frames), uint32(r.sessions), 0)
	_, _ = r.gen.Read(r.frames) // never fails
	var l header.Layout
	return func(from, to int) (sum uint64) {
		for i := range to - from {
			sum += uint64(header.Parse(r.frames[i].Bytes(), &l))
		}
		return sum + uint64(l.SrcPort)
	}
}

// hash is the flow table's hash of a key.
func hash(r *rig, n int) func(int, int) uint64 {
	keys, flows := r.keys(r.traffic(r.standing), n, r.sessions), r.fwd.Flows()
	return func(from, to int) (sum uint64) {
		for i := from; i < to; i++ {
			sum += flows.Hash(&keys[i])
		}
		return sum
	}
}

// lookup is what a batch does to find its sessions: hash, prefetch, look up.
func lookup(k kind) func(r *rig, n int) func(int, int) uint64 {
	return func(r *rig, n int) func(int, int) uint64 {
		keys, flows := r.keys(r.traffic(k), n, r.sessions), r.fwd.Flows()
		var hashes [port.BatchSize]uint64
		var hints [port.BatchSize]flowtable.Ref
		return func(from, to int) (sum uint64) {
			batch := keys[from:to]
			for i := range batch {
				hashes[i] = flows.Hash(&batch[i])
				if i%flowtable.PrefetchStride == flowtable.PrefetchStride-1 {
					flows.PrefetchBuckets(hashes[i+1-flowtable.PrefetchStride : i+1])
				}
			}
			flows.PrefetchSessions(hashes[:min(len(batch), flowtable.PrefetchAhead)], hints[:], false)
			for i := range batch {
				if from := i + flowtable.PrefetchAhead; i%flowtable.PrefetchStride == 0 && from < len(batch) {
					flows.PrefetchSessions(hashes[from:min(len(batch), from+flowtable.PrefetchStride)], hints[from:], false)
				}
				sum += uint64(flows.LookupHint(&batch[i], hashes[i], hints[i]))
			}
			return sum
		}
	}
}

// insertRemove sets sessions up in the table and removes them, a batch at a time.
// Their records come back after the repetition.
func insertRemove(r *rig, n int) (sample, error) {
	n = min(n, freshSessions)
	keys, flows := r.keys(r.traffic(toService).fresh(), n, anyFlow), r.fwd.Flows()
	reader := flows.NewReader()
	defer reader.Close()
	var refs [port.BatchSize]flowtable.Ref
	measure := stage(func(*rig, int) func(int, int) uint64 {
		return func(from, to int) (inserted uint64) {
			for i := from; i < to; i++ {
				ref := reader.Alloc()
				flows.Session(ref).SetKeys(keys[i], keys[i].Reverse())
				if got, _ := reader.Insert(ref); got != flowtable.Inserted { // the same flow twice
					reader.Free(ref)
					ref = 0
				}
				refs[i-from] = ref
			}
			for _, ref := range refs[:to-from] {
				if ref != 0 && reader.Remove(ref) {
					inserted++
				}
			}
			reader.Quiesce()
			return inserted
		}
	})
	s, err := measure(r, n)
	reader.Offline()
	for flows.Reclaim(flows.Capacity()) > 0 {
	}
	return s, err
}

// route is the longest prefix of addresses in every one of the routes.
func route(r *rig, n int) func(int, int) uint64 {
	keys, fib := r.keys(r.traffic(toRoutes), n, anyFlow), r.snap.VRFs[clientVRF].FIB
	return func(from, to int) (sum uint64) {
		for i := from; i < to; i++ {
			found, _ := fib.Lookup(&keys[i].Dst)
			sum += uint64(found.NextHop)
		}
		return sum
	}
}

// ecmp is the hash of the tuple and the choice of a member.
func ecmp(r *rig, n int) func(int, int) uint64 {
	keys := r.keys(r.traffic(toService), n, anyFlow)
	service := r.snap.FloatingIPs[0].Mappings[portKey]
	return func(from, to int) (sum uint64) {
		for i := from; i < to; i++ {
			k := &keys[i]
			member, _ := service.Group.Select(nexthop.HashTuple(service.Hash, &k.Src, &k.Dst, k.SrcPort, k.DstPort, k.Proto))
			sum += uint64(member)
		}
		return sum
	}
}

// evaluate asks both policies.
func evaluate(r *rig, n int) func(int, int) uint64 {
	keys, set := r.keys(r.traffic(toService).fresh(), n, anyFlow), r.snap.Policy
	pod := address(r.six, pods)
	return func(from, to int) (sum uint64) {
		for i := from; i < to; i++ {
			k := &keys[i]
			q := policy.Query{
				SrcNetwork: clientNet, DstNetwork: podsNet, Src: k.Src, Dst: k.Dst,
				SrcPort: k.SrcPort, DstPort: k.DstPort, Proto: k.Proto,
			}
			sum += uint64(set.Network(&q).Rule)
			q.Dst, q.DstPort = pod, podPort
			sum += uint64(set.Security(&q, clientIdentity, podIdentity).Rule)
		}
		return sum
	}
}

// checksum is the whole sum of a 1500-byte packet's payload.
func checksum(*rig, int) func(int, int) uint64 {
	b := make([]byte, 1460)
	return func(from, to int) (sum uint64) {
		for range to - from {
			sum += uint64(header.Checksum(b, uint16(sum)))
		}
		return sum
	}
}

// repair is the repair of two checksums after the translation of an address and a
// port.
func repair(r *rig, n int) func(int, int) uint64 {
	keys, pod := r.keys(r.traffic(toService), n, anyFlow), address(r.six, pods)
	return func(from, to int) (sum uint64) {
		for i := from; i < to; i++ {
			k := &keys[i]
			addresses := header.AddressDelta(&k.Dst, &pod)
			sum += uint64(addresses.Apply(k.SrcPort)) + uint64(addresses.Add(header.WordDelta(k.DstPort, podPort)).ApplyUDP(k.SrcPort))
		}
		return sum
	}
}
