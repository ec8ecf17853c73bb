package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vrouter-go/vrouter/internal/policy"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// identities numbers the distinct sets of namespace, namespace labels, labels and
// named ports of the interfaces, so that a selector is resolved once for all that
// are alike.
type identities struct {
	byKey map[string]*identity
	byID  map[uint32]*identity
	next  uint32
	// fresh and gone are those that somebody has first, or nobody has any more, since
	// the policies were last compiled.
	fresh, gone map[uint32]struct{}
}

type identity struct {
	id              uint32
	key             string
	namespace       string
	namespaceLabels map[string]string
	labels          map[string]string
	ports           []*pb.NamedPort
	users           int
}

func newIdentities() identities {
	return identities{
		byKey: map[string]*identity{}, byID: map[uint32]*identity{}, next: policy.FirstIdentity,
		fresh: map[uint32]struct{}{}, gone: map[uint32]struct{}{},
	}
}

// acquire returns the number of an interface's labels. Each acquire is paired with
// a release.
func (t *identities) acquire(vmi *pb.VirtualMachineInterface) uint32 {
	key := identityKey(vmi)
	i := t.byKey[key]
	if i == nil {
		i = &identity{
			id: t.next, key: key, namespace: vmi.GetNamespace(),
			namespaceLabels: vmi.GetNamespaceLabels(), labels: vmi.GetLabels(), ports: vmi.GetNamedPorts(),
		}
		t.next++
		t.byKey[key], t.byID[i.id] = i, i
		t.fresh[i.id] = struct{}{}
	}
	i.users++
	return i.id
}

// release gives an identity back.
func (t *identities) release(id uint32) {
	i := t.byID[id]
	if i == nil {
		return
	}
	if i.users--; i.users > 0 {
		return
	}
	delete(t.byKey, i.key)
	delete(t.byID, id)
	if _, ok := t.fresh[id]; ok { // no policy knows it
		delete(t.fresh, id)
		return
	}
	t.gone[id] = struct{}{}
}

// all returns the identities in the order of their numbers.
func (t *identities) all() []*identity {
	return slices.SortedFunc(maps.Values(t.byID), func(a, b *identity) int { return cmp.Compare(a.id, b.id) })
}

func identityKey(vmi *pb.VirtualMachineInterface) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q", vmi.GetNamespace())
	for _, labels := range [...]map[string]string{vmi.GetNamespaceLabels(), vmi.GetLabels()} {
		b.WriteByte('|')
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			fmt.Fprintf(&b, "%q=%q,", k, labels[k])
		}
	}
	for _, p := range vmi.GetNamedPorts() {
		fmt.Fprintf(&b, "|%q/%d/%d", p.GetName(), protocolOf(p.GetProtocol()), p.GetPort())
	}
	return b.String()
}

// protocolOf is the number of a named port's protocol.
func protocolOf(p pb.Protocol_Value) uint8 { return protocols(p, pb.Protocol_TCP)[0] }

// selects reports whether labels meet every condition of a selector; an empty
// or absent one selects everything.
func selects(s *pb.LabelSelector, labels map[string]string) bool {
	for k, v := range s.GetMatchLabels() {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	for _, e := range s.GetMatchExpressions() {
		v, ok := labels[e.GetKey()]
		holds := false
		switch e.GetOperator() {
		case "In":
			holds = ok && slices.Contains(e.GetValues(), v)
		case "NotIn":
			holds = !ok || !slices.Contains(e.GetValues(), v)
		case "Exists":
			holds = ok
		case "DoesNotExist":
			holds = !ok
		}
		if !holds {
			return false
		}
	}
	return true
}
