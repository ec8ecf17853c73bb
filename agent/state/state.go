package state

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"maps"
	"slices"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// object is a resource with what was worked out about it when it came.
type object struct {
	res    *pb.Resource
	sum    [sha256.Size]byte
	refs   []ref
	claims []claim
}

// State is desired state at one generation. Use New.
type State struct {
	generation uint64
	objects    map[string]map[string]*object // kind, name
	digest     [sha256.Size]byte             // the XOR of all sums
	// referrers holds who names a resource.
	referrers map[Key]map[Key]struct{}
	// claimed holds who takes a thing that only one may have.
	claimed map[thing]map[Key]struct{}
	owned   map[string]int // resources by owner
	// joined are the interfaces with an attachment in effect, with what it gives them.
	joined map[string]*pb.VirtualMachineInterface
}

// New returns the empty state at generation 0.
func New() *State {
	s := &State{
		objects:   map[string]map[string]*object{},
		referrers: map[Key]map[Key]struct{}{},
		claimed:   map[thing]map[Key]struct{}{},
		owned:     map[string]int{},
		joined:    map[string]*pb.VirtualMachineInterface{},
	}
	for _, kind := range Kinds {
		s.objects[kind] = map[string]*object{}
	}
	return s
}

// Generation counts the transactions that changed the state.
func (s *State) Generation() uint64 { return s.generation }

// Digest identifies what the state says, whatever way led to it: two states with
// the same resources have the same digest.
func (s *State) Digest() string { return hex.EncodeToString(s.digest[:]) }

// Get returns a resource, nil if there is none. It must not be changed.
func (s *State) Get(k Key) *pb.Resource {
	if o := s.objects[k.Kind][k.Name]; o != nil {
		return o.res
	}
	return nil
}

// Has reports whether a resource exists; ip-fabric always does.
func (s *State) Has(k Key) bool {
	return s.Get(k) != nil || k == Key{VirtualNetwork, FabricNetwork}
}

// Count is the number of resources of a kind.
func (s *State) Count(kind string) int { return len(s.objects[kind]) }

// Owned is the number of resources that owner wrote last.
func (s *State) Owned(owner string) int { return s.owned[owner] }

// Names returns the names of a kind's resources in order.
func (s *State) Names(kind string) []string {
	return slices.Sorted(maps.Keys(s.objects[kind]))
}

// Of yields the resources of a kind in no order.
func (s *State) Of(kind string) iter.Seq2[string, *pb.Resource] {
	return func(yield func(string, *pb.Resource) bool) {
		for name, o := range s.objects[kind] {
			if !yield(name, o.res) {
				return
			}
		}
	}
}

// All returns every resource in the order of kind and name.
func (s *State) All() []*pb.Resource {
	var all []*pb.Resource
	for _, kind := range Kinds {
		for _, name := range s.Names(kind) {
			all = append(all, s.objects[kind][name].res)
		}
	}
	return all
}

// Referrers returns who names a resource, in order.
func (s *State) Referrers(k Key) []Key {
	return slices.SortedFunc(maps.Keys(s.referrers[k]), Key.Compare)
}

// Referring yields who names a resource, in no order.
func (s *State) Referring(k Key) iter.Seq[Key] { return maps.Keys(s.referrers[k]) }

// put replaces the object of k, nil for none, and keeps the indexes true. It
// returns the object that was there.
func (s *State) put(k Key, o *object) (old *object) {
	if old = s.objects[k.Kind][k.Name]; old != nil {
		s.unindex(k, old)
		delete(s.objects[k.Kind], k.Name)
	}
	if o != nil {
		s.objects[k.Kind][k.Name] = o
		s.index(k, o)
	}
	if k.Kind == VirtualMachineInterface || k.Kind == Attachment {
		s.join(k.Name)
	}
	return old
}

func (s *State) index(k Key, o *object) {
	for _, r := range o.refs {
		add(s.referrers, r.to, k)
	}
	for _, c := range o.claims {
		add(s.claimed, c.thing, k)
	}
	s.owned[o.res.GetOwner()]++
	xor(&s.digest, &o.sum)
}

func (s *State) unindex(k Key, o *object) {
	for _, r := range o.refs {
		remove(s.referrers, r.to, k)
	}
	for _, c := range o.claims {
		remove(s.claimed, c.thing, k)
	}
	owner := o.res.GetOwner()
	if s.owned[owner]--; s.owned[owner] == 0 {
		delete(s.owned, owner)
	}
	xor(&s.digest, &o.sum)
}

func add[K comparable](index map[K]map[Key]struct{}, at K, k Key) {
	if index[at] == nil {
		index[at] = map[Key]struct{}{}
	}
	index[at][k] = struct{}{}
}

func remove[K comparable](index map[K]map[Key]struct{}, at K, k Key) {
	delete(index[at], k)
	if len(index[at]) == 0 {
		delete(index, at)
	}
}

func xor(a, b *[sha256.Size]byte) {
	for i := range a {
		a[i] ^= b[i]
	}
}
