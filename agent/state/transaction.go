package state

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Limits of a transaction and of the state that it makes.
const (
	MaxResources  = 500_000
	MaxInterfaces = 4093 // forwarder.MaxPorts less port 0, vhost0 and the uplink
	MaxNetworks   = 4095 // beside ip-fabric
)

// Request is a transaction: upserts and deletes take effect together.
type Request struct {
	Owner   string // who writes
	Upserts []*pb.Resource
	// Drafts are those of Upserts, in the same order; nil: Begin makes them.
	Drafts  []Draft
	Deletes []Key
	// Sweep are deletes that the request does not list itself: what a prune or the
	// end of a snapshot removes.
	Sweep []Key
	// Borrowed are the node's addresses beside those that its description gives.
	Borrowed []netip.Addr
	// Renew looks again at what follows from attachments though none has changed.
	Renew bool
}

// Change is what a transaction did to one resource; nil = absent.
type Change struct {
	Key      Key
	Old, New *pb.Resource
}

// Transaction is a change that the state shows already and that can still be
// taken back. It ends with Commit or Rollback, before the next one begins.
type Transaction struct {
	state   *State
	changes []Change
	undo    []undo
	results []*pb.ResourceResult
}

type undo struct {
	key Key
	old *object
}

// Begin carries out a request and checks the state that it makes. The error is
// an *Error, and the state is then as before. The resources of the request
// belong to the state afterwards and must not be changed.
func (s *State) Begin(req Request) (*Transaction, error) {
	if req.Drafts == nil {
		req.Drafts = Drafts(req.Upserts, s.Known(req.Upserts))
	}
	r := &report{upserts: make(map[Key]int, len(req.Upserts)), drafts: req.Drafts}
	r.request(req)
	if err := r.err(); err != nil {
		return nil, err
	}
	tx := &Transaction{state: s}
	next := s.generation + 1
	for i := range req.Drafts {
		tx.upsert(&req.Drafts[i], req.Owner, next)
	}
	tx.remove(req.Deletes, true)
	tx.remove(req.Sweep, false)
	tx.derive(req)
	c := checker{State: s, report: r, deleted: map[Key]struct{}{}}
	for _, ch := range tx.changes {
		if ch.New == nil {
			c.deleted[ch.Key] = struct{}{}
		}
	}
	c.deletes(req.Deletes)
	c.limits()
	for k := range tx.closure() {
		c.resource(k)
	}
	if err := r.err(); err != nil {
		tx.Rollback()
		return nil, err
	}
	slices.SortFunc(tx.results, func(a, b *pb.ResourceResult) int {
		return keyOf(a.GetKey()).Compare(keyOf(b.GetKey()))
	})
	return tx, nil
}

func keyOf(k *pb.ResourceKey) Key { return Key{k.GetKind(), k.GetName()} }

// request checks what can be said about a request without the state.
func (r *report) request(req Request) {
	for i := range req.Drafts {
		d := &req.Drafts[i]
		k := d.key
		if first, ok := r.upserts[k]; ok && k.Kind != "" {
			r.list = append(r.list, Violation{
				Upsert: i, Request: fmt.Sprintf("upserts[%d]", i), Resource: k, Field: "name",
				Description: fmt.Sprintf("is in the transaction already, as upserts[%d]; give each resource once", first),
			})
			continue
		}
		r.upserts[k] = i
		for _, f := range d.faults {
			r.add(k, f.field, "%s", f.description)
		}
	}
	for i, k := range req.Deletes {
		if _, ok := r.upserts[k]; ok {
			r.list = append(r.list, Violation{
				Upsert: -1, Request: fmt.Sprintf("deletes[%d]", i), Resource: k, Field: "name",
				Description: "is both upserted and deleted in one transaction; leave one out",
			})
		}
	}
}

// upsert puts a resource into the state unless it says what is there already.
func (tx *Transaction) upsert(d *Draft, owner string, generation uint64) {
	tx.result(d.key, tx.set(d, owner, generation))
}

func (tx *Transaction) set(d *Draft, owner string, generation uint64) pb.ResourceResult_Outcome {
	k := d.key
	old := tx.state.objects[k.Kind][k.Name]
	if old != nil && old.sum == d.object.sum && old.res.GetOwner() == owner {
		return pb.ResourceResult_UNCHANGED
	}
	o := &object{sum: d.object.sum, refs: d.object.refs, claims: d.object.claims}
	o.res = &pb.Resource{Name: d.res.GetName(), Owner: owner, Generation: generation, Spec: d.res.GetSpec()}
	tx.put(k, o)
	if old != nil {
		return pb.ResourceResult_UPDATED
	}
	return pb.ResourceResult_CREATED
}

// remove takes resources out of the state.
func (tx *Transaction) remove(keys []Key, report bool) {
	for _, k := range keys {
		if tx.state.Get(k) == nil {
			if report {
				tx.result(k, pb.ResourceResult_NOT_FOUND)
			}
			continue
		}
		tx.put(k, nil)
		tx.result(k, pb.ResourceResult_DELETED)
	}
}

func (tx *Transaction) put(k Key, o *object) {
	old := tx.state.put(k, o)
	tx.undo = append(tx.undo, undo{k, old})
	ch := Change{Key: k}
	if old != nil {
		ch.Old = old.res
	}
	if o != nil {
		ch.New = o.res
	}
	tx.changes = append(tx.changes, ch)
}

func (tx *Transaction) result(k Key, outcome pb.ResourceResult_Outcome) {
	tx.results = append(tx.results, &pb.ResourceResult{Key: k.Proto(), Outcome: outcome})
}

// Changes returns what the transaction changes, in no order.
func (tx *Transaction) Changes() []Change { return tx.changes }

// Programs reports whether the transaction changes what the forwarder does: one
// that changes records only does not.
func (tx *Transaction) Programs() bool {
	return slices.ContainsFunc(tx.changes, func(ch Change) bool { return !record(ch.Key.Kind) })
}

// Results returns what became of each resource, by kind and name.
func (tx *Transaction) Results() []*pb.ResourceResult { return tx.results }

// Commit makes the transaction stay. One that changes nothing makes no new
// generation.
func (tx *Transaction) Commit() {
	if len(tx.changes) > 0 {
		tx.state.generation++
	}
	tx.undo = nil
}

// Rollback puts the state back as it was.
func (tx *Transaction) Rollback() {
	for _, u := range slices.Backward(tx.undo) {
		tx.state.put(u.key, u.old)
	}
	tx.undo = nil
}

// Affected returns every resource whose meaning the transaction may change: the
// changed ones, those that they name or named, and those that name them,
// directly or through one another. Records are not among them and change nobody's.
func (tx *Transaction) Affected() []Key {
	keys := tx.closure()
	maps.DeleteFunc(keys, func(k Key, _ struct{}) bool { return record(k.Kind) })
	for _, ch := range tx.changes {
		if record(ch.Key.Kind) {
			continue
		}
		for _, res := range [...]*pb.Resource{ch.Old, ch.New} {
			for _, r := range references(res) {
				keys[r.to] = struct{}{}
			}
		}
	}
	return slices.SortedFunc(maps.Keys(keys), Key.Compare)
}

// closure returns the changed resources and those that name them, directly or
// through one another.
func (tx *Transaction) closure() map[Key]struct{} {
	keys := map[Key]struct{}{}
	var visit func(Key)
	visit = func(k Key) {
		if _, ok := keys[k]; ok {
			return
		}
		keys[k] = struct{}{}
		for referrer := range tx.state.referrers[k] {
			visit(referrer)
		}
	}
	for _, ch := range tx.changes {
		if ch.Key.Kind == AddressSet && ch.Old != nil && ch.New != nil {
			keys[ch.Key] = struct{}{} // who names it means the same as before
			continue
		}
		visit(ch.Key)
		if ch.Key.Kind == Attachment { // it gives the interface its addresses, which others lead to
			visit(Key{VirtualMachineInterface, ch.Key.Name})
		}
		for _, use := range uses(ch) {
			for k := range tx.state.claimed[use] {
				visit(k)
			}
		}
	}
	return keys
}

// uses returns what others use without naming the changed resource: a network's
// VRF, the node's port and its ways to other nodes, and the name that a member on
// another node must not share with an interface here.
func uses(ch Change) []thing {
	switch ch.Key.Kind {
	case VirtualNetwork:
		return []thing{
			{claimUse, "vrf", VRFName(ch.Key.Name, ch.Old.GetVirtualNetwork())},
			{claimUse, "vrf", VRFName(ch.Key.Name, ch.New.GetVirtualNetwork())},
		}
	case VirtualMachineInterface:
		return []thing{{claimUse, "remote", ch.Key.Name}}
	case Fabric:
		list := []thing{{claimUse, "interface", Vhost0}}
		if !slices.Equal(tunnelNeeds(ch.Old.GetFabric()), tunnelNeeds(ch.New.GetFabric())) {
			list = append(list, thing{claimUse, "tunnel", ""})
		}
		if snatOf(ch.Old.GetFabric()) != snatOf(ch.New.GetFabric()) || !slices.Equal(NodeAddresses(ch.Old.GetFabric()), NodeAddresses(ch.New.GetFabric())) {
			list = append(list, thing{claimUse, "snat", ""})
		}
		if hostNeeds(ch.Old.GetFabric()) != hostNeeds(ch.New.GetFabric()) || !slices.Equal(NodeAddresses(ch.Old.GetFabric()), NodeAddresses(ch.New.GetFabric())) {
			list = append(list, thing{claimUse, "host", ""})
		}
		return list
	}
	return nil
}

// hostNeeds is what of the node's description members that are hosts depend on, beside
// its addresses: whether there is a way to the node itself, and one out.
func hostNeeds(f *pb.Fabric) [2]bool { return [2]bool{f.GetVhost0() != nil, f.GetUplink() != nil} }

// Restore makes the state what an earlier process kept. Resources keep their
// owner and generation. The error is an *Error and the state is then empty.
func (s *State) Restore(generation uint64, resources []*pb.Resource) error {
	tx, err := s.Begin(Request{Upserts: resources})
	if err != nil {
		return err
	}
	for _, res := range resources {
		k := KeyOf(res)
		o := s.objects[k.Kind][k.Name]
		s.put(k, &object{res: res, sum: o.sum, refs: o.refs, claims: o.claims})
	}
	tx.Commit()
	s.generation = generation
	return nil
}
