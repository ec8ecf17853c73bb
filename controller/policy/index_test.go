package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/controller/policy"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func localPod(name string) *policy.Pod {
	return &policy.Pod{Namespace: "one", Name: name, Labels: map[string]string{"app": "web"}, IPs: []netip.Addr{netip.MustParseAddr("10.244.0.11")}, Local: true}
}

func networkPolicy(name string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "one", Name: name}, Spec: spec}
}

func from(peers ...networkingv1.NetworkPolicyPeer) networkingv1.NetworkPolicySpec {
	return networkingv1.NetworkPolicySpec{Ingress: []networkingv1.NetworkPolicyIngressRule{{From: peers}}}
}

// TestFailsClosed: what cannot be read allows nothing, is told, and does not keep the
// agent from taking the rest.
func TestFailsClosed(t *testing.T) {
	everybody := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{}}
	var holes []string
	for i := range 2000 {
		holes = append(holes, fmt.Sprintf("10.%d.%d.%d/32", i/8, i%251, i%13))
	}
	wide := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: holes}}
	for _, c := range []struct {
		name    string
		spec    networkingv1.NetworkPolicySpec
		problem string // "": none
		rules   int
	}{
		{"a peer of a later version", from(networkingv1.NetworkPolicyPeer{}), "matches nobody", 0},
		{"one beside others", from(networkingv1.NetworkPolicyPeer{}, everybody), "matches nobody", 1},
		{"a block that is all holes", from(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"10.0.0.0/8"}}}), "", 0},
		{"host bits and leading zeros", from(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: "010.1.2.3/8"}}), "", 1},
		{"too large", from(wide, wide, wide), "it allows nothing", 0},
		{"a selector that is none", from(networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}), "podSelector", 0},
	} {
		x := policy.NewIndex()
		x.SetNamespace(&policy.Namespace{Name: "one"})
		x.SetPod(localPod("p1"))
		err := x.SetNetworkPolicy(networkPolicy(strings.Repeat("n", 250), c.spec))
		if (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s: %v, want %q", c.name, err, c.problem)
		}
		list := x.Changes().Upserts
		if _, err := state.New().Begin(state.Request{Owner: "test", Upserts: list}); err != nil {
			t.Errorf("%s: the agent refuses it: %v", c.name, err)
		}
		sp := list[len(list)-1].GetSecurityPolicy()
		if sp == nil || len(sp.GetPolicyTypes()) != 1 || len(sp.GetIngress()) != c.rules {
			t.Errorf("%s: %v, want %d rules in a policy that isolates", c.name, sp, c.rules)
		}
	}
}

// TestChangesAreSmall: what a change makes is what differs.
func TestChangesAreSmall(t *testing.T) {
	x := policy.NewIndex()
	x.SetNamespace(&policy.Namespace{Name: "one"})
	x.SetPod(localPod("p1"))
	far := func(n int) *policy.Pod {
		return &policy.Pod{Namespace: "one", Name: fmt.Sprint("far", n), Labels: map[string]string{"app": "db"}, IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(n)})}}
	}
	db := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}
	only := func(app string) networkingv1.NetworkPolicySpec {
		s := from(db)
		s.PodSelector.MatchLabels = map[string]string{"app": app}
		return s
	}
	expect := func(what string, upserts string, deletes int) {
		t.Helper()
		var kinds []string
		c := x.Changes()
		for _, r := range c.Upserts {
			kinds = append(kinds, state.KeyOf(r).Kind)
		}
		if got := strings.Join(kinds, " "); got != upserts || len(c.Deletes) != deletes {
			t.Errorf("%s: upserts %q and %d deletes, want %q and %d", what, got, len(c.Deletes), upserts, deletes)
		}
	}
	for _, app := range []string{"web", "db"} {
		if err := x.SetNetworkPolicy(networkPolicy(app, only(app))); err != nil {
			t.Fatal(err)
		}
	}
	expect("one policy selects nobody here", "AddressSet SecurityPolicy", 0)
	x.SetPod(far(1))
	expect("a pod elsewhere", "AddressSet", 0)
	x.SetPod(far(1))
	expect("the same again", "", 0)
	p := localPod("p2")
	x.SetPod(p)
	expect("another subject", "", 0)
	db2 := localPod("p3")
	db2.Labels = map[string]string{"app": "db"}
	x.SetPod(db2)
	expect("the first subject of a policy", "AddressSet SecurityPolicy", 0)
	x.DeletePod("one", "p3")
	expect("the last one goes", "AddressSet", 1)
	x.DeleteNetworkPolicy("one", "web")
	if err := x.SetNetworkPolicy(networkPolicy("other", only("web"))); err != nil {
		t.Fatal(err)
	}
	expect("another policy goes on with the set", "SecurityPolicy", 1)
	x.DeleteNetworkPolicy("one", "other")
	expect("the last policy", "", 2)
}

// TestDecode reads what a dynamic client has; fields that are not known are left out.
func TestDecode(t *testing.T) {
	cnp, err := policy.DecodeClusterNetworkPolicy(&unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": "c"},
		"spec": map[string]any{
			"tier": "Baseline", "priority": int64(7), "subject": map[string]any{"namespaces": map[string]any{}},
			"egress": []any{map[string]any{"action": "Deny", "to": []any{map[string]any{"domainNames": []any{"example.com"}}}}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	list, err := policy.Translate(nil, []*policy.ClusterNetworkPolicy{cnp}, []*policy.Pod{localPod("p1")}, []*policy.Namespace{{Name: "one"}})
	if err == nil || !strings.Contains(err.Error(), "fails closed") {
		t.Errorf("error %v", err)
	}
	if len(list) != 1 || list[0].GetName() != "cnp:c" {
		t.Fatalf("%v", list)
	}
	sp := list[0].GetSecurityPolicy()
	if r := sp.GetEgress(); sp.GetTier() != pb.SecurityPolicy_BASELINE || sp.GetPriority() != 7 || len(r) != 1 || r[0].GetAction() != pb.SecurityRule_DENY || len(r[0].GetPeers()) != 0 {
		t.Errorf("%v", sp)
	}
}

// BenchmarkPodChange measures a pod that comes and goes among 10,000 pods and 1,000
// policies in 100 namespaces, 110 pods here.
func BenchmarkPodChange(b *testing.B) {
	x := policy.NewIndex()
	pod := func(i int) *policy.Pod {
		return &policy.Pod{
			Namespace: fmt.Sprint("ns", i%100), Name: fmt.Sprint("p", i), Labels: map[string]string{"app": fmt.Sprint(i / 100 % 10)},
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})}, Local: i < 110,
		}
	}
	for i := range 100 {
		x.SetNamespace(&policy.Namespace{Name: fmt.Sprint("ns", i), Labels: map[string]string{"n": fmt.Sprint(i)}})
	}
	for i := range 10_000 {
		x.SetPod(pod(i))
	}
	for i := range 1000 {
		app := metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(i / 100)}}
		all := networkingv1.NetworkPolicyPeer{PodSelector: &app, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"n": fmt.Sprint(i % 100)}}}
		np := networkPolicy(fmt.Sprint("p", i), from(networkingv1.NetworkPolicyPeer{PodSelector: &app}, all))
		np.Namespace = fmt.Sprint("ns", i%100)
		if err := x.SetNetworkPolicy(np); err != nil {
			b.Fatal(err)
		}
	}
	x.Changes()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := pod(9000 + i%1000)
		x.DeletePod(p.Namespace, p.Name)
		x.Changes()
		x.SetPod(p)
		x.Changes()
	}
}

// TestNamesApart: a namespace that is called as the policies of the cluster begin
// takes none of their names.
func TestNamesApart(t *testing.T) {
	cnp := &policy.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}
	cnp.Spec.Tier, cnp.Spec.Subject.Namespaces = "Admin", &metav1.LabelSelector{}
	p := localPod("p1")
	p.Namespace = "cnp"
	np := networkPolicy("deny", networkingv1.NetworkPolicySpec{})
	np.Namespace = "cnp"
	list, err := policy.Translate([]*networkingv1.NetworkPolicy{np}, []*policy.ClusterNetworkPolicy{cnp}, []*policy.Pod{p}, []*policy.Namespace{{Name: "cnp"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := state.New().Begin(state.Request{Owner: "test", Upserts: list}); err != nil || len(list) != 2 {
		t.Errorf("%v: %v, want two policies", list, err)
	}
}

// TestManyNumbers: what pods call their ports does not make a policy of others larger
// than the agent takes, for then it would not be in force.
func TestManyNumbers(t *testing.T) {
	x := policy.NewIndex()
	x.SetNamespace(&policy.Namespace{Name: "one"})
	x.SetPod(localPod("p1"))
	name := intstr.FromString("http")
	np := networkPolicy("n", networkingv1.NetworkPolicySpec{Egress: []networkingv1.NetworkPolicyEgressRule{{
		To: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}, Ports: []networkingv1.NetworkPolicyPort{{Port: &name}},
	}}})
	if err := x.SetNetworkPolicy(np); err != nil {
		t.Fatal(err)
	}
	st := state.New()
	apply := func(want int) {
		t.Helper()
		c := x.Changes()
		req := state.Request{Owner: "test", Upserts: c.Upserts}
		for _, k := range c.Deletes {
			req.Deletes = append(req.Deletes, state.Key{Kind: k.GetKind(), Name: k.GetName()})
		}
		tx, err := st.Begin(req)
		if err != nil {
			t.Fatalf("the agent refuses it: %.200v", err)
		}
		tx.Commit()
		sp := st.Get(state.Key{Kind: state.SecurityPolicy, Name: "one:n"}).GetSecurityPolicy()
		if sp == nil || len(sp.GetPolicyTypes()) != 2 || len(sp.GetEgress()) != want {
			t.Errorf("%d rules and types %v, want %d rules", len(sp.GetEgress()), sp.GetPolicyTypes(), want)
		}
	}
	apply(0)
	pod := func(i, ports int) *policy.Pod {
		p := &policy.Pod{Namespace: "one", Name: fmt.Sprint("far", i), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 1, byte(i)})}}
		for j := range ports {
			p.NamedPorts = append(p.NamedPorts, policy.NamedPort{Name: "http", Port: uint16(i*1000 + j + 1)})
		}
		return p
	}
	for i := range 11 {
		x.SetPod(pod(i, 1000))
	}
	apply(0)
	x.SetPod(pod(0, 1))
	x.SetPod(pod(1, 1))
	apply(9002)
}

// TestUnreadableSubject: a policy that becomes one of which nobody knows whom it is
// about stays in force.
func TestUnreadableSubject(t *testing.T) {
	x := policy.NewIndex()
	x.SetNamespace(&policy.Namespace{Name: "one"})
	x.SetPod(localPod("p1"))
	cnp := func(tier string) *policy.ClusterNetworkPolicy {
		c := &policy.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}
		c.Spec.Tier, c.Spec.Subject.Namespaces = tier, &metav1.LabelSelector{}
		return c
	}
	bad := networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}
	for _, err := range []error{x.SetClusterNetworkPolicy(cnp("Admin")), x.SetNetworkPolicy(networkPolicy("n", networkingv1.NetworkPolicySpec{}))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if c := x.Changes(); len(c.Upserts) != 2 {
		t.Fatalf("%v", c)
	}
	for _, err := range []error{x.SetClusterNetworkPolicy(cnp("Later")), x.SetNetworkPolicy(networkPolicy("n", bad))} {
		if err == nil {
			t.Error("nothing is said of what cannot be read")
		}
	}
	if c := x.Changes(); len(c.Upserts)+len(c.Deletes) != 0 {
		t.Errorf("what cannot be read changes %v", c)
	}
	x.DeleteClusterNetworkPolicy("deny")
	x.DeleteNetworkPolicy("one", "n")
	if c := x.Changes(); len(c.Deletes) != 2 {
		t.Errorf("%v, want both gone", c)
	}
}
