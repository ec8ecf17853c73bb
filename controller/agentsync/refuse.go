package agentsync

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// apply brings resources into the agent in one transaction. Where it is refused,
// the resources that the agent names are set aside and the rest goes without them;
// where it names none of them, the transaction is halved until it is clear which
// is at fault. The error is that of the stream.
func (x *session) apply(ctx context.Context, work []item) error {
	order(work)
	for len(work) > 0 {
		n := delta(work)
		if err := x.applyPart(ctx, work[:n]); err != nil {
			return err
		}
		work = work[n:]
	}
	return nil
}

// order sorts what a transaction of several parts does: what others name comes
// before what names it, and goes after it.
func order(work []item) {
	slices.SortFunc(work, func(a, b item) int {
		switch {
		case a.res != nil && b.res != nil:
			return compare(a.key, b.key)
		case a.res == nil && b.res == nil:
			return compare(b.key, a.key)
		case a.res != nil:
			return -1
		}
		return 1
	})
}

// delta returns how many of the next items go into one transaction.
func delta(work []item) int {
	size := 0
	for i, it := range work {
		if it.res != nil {
			size += proto.Size(it.res)
		}
		if i == deltaResources || i > 0 && size > deltaBytes {
			return i
		}
	}
	return len(work)
}

func (x *session) applyPart(ctx context.Context, work []item) error {
	for {
		if work = x.withhold(work); len(work) == 0 {
			return nil
		}
		nack, err := x.delta(ctx, work)
		if err != nil {
			return err
		}
		if nack == nil {
			x.accepted(work)
			return nil
		}
		x.metrics.nacks.Inc()
		guilty := offenders(work, nack)
		switch {
		case len(guilty) > 0:
			work = slices.DeleteFunc(slices.Clone(work), func(it item) bool {
				v, ok := guilty[it.key]
				if ok {
					x.refuse(it, v.GetField(), v.GetDescription())
				}
				return ok
			})
		case len(work) == 1:
			x.refuse(work[0], "", nack.GetReason())
			return nil
		default:
			if err := x.applyPart(ctx, work[:len(work)/2]); err != nil {
				return err
			}
			work = work[len(work)/2:]
		}
	}
}

// withhold sets aside the new interfaces that a policy would select which the agent
// refuses and has no former version of: better no network than one without its policy.
func (x *session) withhold(work []item) []item {
	x.mu.Lock()
	var missing []*pb.Resource
	for k, r := range x.refused {
		if k.Kind == "SecurityPolicy" && r.want != nil && r.former == nil && x.desired[k] != nil {
			missing = append(missing, r.want)
		}
	}
	x.mu.Unlock()
	if len(missing) == 0 {
		return work
	}
	slices.SortFunc(missing, func(a, b *pb.Resource) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return slices.DeleteFunc(slices.Clone(work), func(it item) bool {
		vmi := it.res.GetVirtualMachineInterface()
		if vmi == nil || x.have[it.key] != nil {
			return false
		}
		i := slices.IndexFunc(missing, func(p *pb.Resource) bool { return mayConcern(p.GetSecurityPolicy(), vmi) })
		if i >= 0 {
			x.refuse(it, "", fmt.Sprintf("it waits for SecurityPolicy %s, which may select it and which the agent refuses; correct that one", missing[i].GetName()))
		}
		return i >= 0
	})
}

// mayConcern reports whether a policy may select an interface: that is what its scope
// says, without its selectors.
func mayConcern(p *pb.SecurityPolicy, vmi *pb.VirtualMachineInterface) bool {
	return p.GetNamespaceSelector() != nil || p.GetNamespace() == vmi.GetNamespace()
}

// delta sends one transaction.
func (x *session) delta(ctx context.Context, work []item) (*pb.SyncNack, error) {
	d := &pb.SyncDelta{}
	for _, it := range work {
		switch {
		case it.res != nil:
			d.Upserts = append(d.Upserts, it.res)
		case x.have[it.key] != nil:
			d.Deletes = append(d.Deletes, &pb.ResourceKey{Kind: it.key.Kind, Name: it.key.Name})
		}
	}
	return x.transact(ctx, kindDelta, len(work), func(sequence uint64) error {
		d.Sequence = sequence
		return x.send(&pb.SyncRequest{Message: &pb.SyncRequest_Delta{Delta: d}})
	})
}

// offenders returns the items that the agent found fault with, each with the first
// fault.
func offenders(work []item, nack *pb.SyncNack) map[Key]*pb.FieldViolation {
	ours := make(map[Key]struct{}, len(work))
	for _, it := range work {
		ours[it.key] = struct{}{}
	}
	faults := map[Key]*pb.FieldViolation{}
	for _, v := range nack.GetViolations() {
		k := Key{v.GetResource().GetKind(), v.GetResource().GetName()}
		if _, ok := ours[k]; ok && faults[k] == nil {
			faults[k] = v
		}
	}
	return faults
}

// accepted notes what the agent has now. What was refused before may be right with
// it, so that it is tried again soon.
func (x *session) accepted(work []item) {
	x.progress = true
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, it := range work {
		delete(x.refused, it.key)
		if it.res != nil {
			x.have[it.key] = it.res
		} else {
			delete(x.have, it.key)
		}
	}
	if len(x.refused) > 0 {
		x.retryWait = firstRefusedWait
		x.retryIn(x.retryWait)
	}
}

// refuse sets an item aside. The agent keeps what it has of it.
func (x *session) refuse(it item, field, reason string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := &refusal{want: it.res, former: x.have[it.key], Refusal: Refusal{
		Key: it.key, Field: field, Reason: reason, Kept: x.have[it.key] != nil, Since: time.Now(),
	}}
	old := x.refused[it.key]
	x.refused[it.key] = r
	x.retryIn(x.retryWait)
	if old != nil && old.want == r.want {
		if r.Since = old.Since; old.Reason == reason {
			return // no news
		}
	}
	x.metrics.refusals.WithLabelValues(it.key.Kind).Inc()
	x.log.Error("the agent refused a resource; the others are in force", "resource", it.key, "field", field, "reason", reason,
		"removal", it.res == nil, "former version kept", r.Kept)
}

// retryIn has what was refused sent again after d, or earlier where that is due.
func (x *session) retryIn(d time.Duration) {
	if at := time.Now().Add(d); x.retryAt.IsZero() || at.Before(x.retryAt) {
		x.retryAt = at
		x.retry.Reset(d)
	}
}

// again sends what was refused once more.
func (x *session) again(ctx context.Context) error {
	x.mu.Lock()
	x.retryAt = time.Time{}
	var work []item
	for k := range x.refused {
		work = append(work, item{k, x.desired[k]})
	}
	x.mu.Unlock()
	if len(work) == 0 {
		return nil
	}
	x.retryWait = min(2*x.retryWait, lastRefusedWait)
	return x.apply(ctx, work)
}

// kinds is the order of kinds: what is named before what names it, and policies before
// the interfaces that they select, so that none of these is open between two transactions.
var kinds = slices.Concat([]string{"AddressSet", "SecurityPolicy"}, slices.DeleteFunc(statefile.Kinds(), func(kind string) bool {
	return kind == "AddressSet" || kind == "SecurityPolicy"
}))

// compare orders keys by kind, named ones first, and name.
func compare(a, b Key) int {
	if a.Kind == b.Kind {
		return cmp.Compare(a.Name, b.Name)
	}
	return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Name, b.Name))
}

func sortedKeys(m map[Key]*pb.Resource) []Key {
	return slices.SortedFunc(maps.Keys(m), compare)
}
