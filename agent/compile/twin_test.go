package compile

import (
	"testing"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/internal/policy"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestNewLabels: pods whose labels nobody had before are judged as their labels say,
// whether others that the policies treat alike are there or not.
func TestNewLabels(t *testing.T) {
	deny := func(name string, labels map[string]string, ports ...*pb.SecurityPort) *pb.Resource {
		return &pb.Resource{Name: name, Spec: &pb.Resource_SecurityPolicy{SecurityPolicy: &pb.SecurityPolicy{
			Tier: pb.SecurityPolicy_ADMIN, NamespaceSelector: &pb.LabelSelector{}, Subject: &pb.LabelSelector{MatchLabels: labels},
			Ingress: []*pb.SecurityRule{{Action: pb.SecurityRule_DENY, Ports: ports}},
		}}}
	}
	vmi := func(name, address string, port uint32, labels map[string]string) *pb.Resource {
		return &pb.Resource{Name: name, Spec: &pb.Resource_VirtualMachineInterface{VirtualMachineInterface: &pb.VirtualMachineInterface{
			VirtualNetwork: "pods", Addresses: []string{address}, Labels: labels, NamedPorts: []*pb.NamedPort{{Name: "web", Port: port}},
		}}}
	}
	app := map[string]string{"app": "a"}
	st, c := state.New(), New(Config{})
	apply := func(upserts []*pb.Resource, deletes ...state.Key) *Result {
		t.Helper()
		tx, err := st.Begin(state.Request{Owner: "test", Upserts: upserts, Deletes: deletes})
		if err != nil {
			t.Fatal(err)
		}
		r, err := c.Compile(st, tx.Affected())
		if err != nil {
			t.Fatal(err)
		}
		tx.Commit()
		return r
	}
	apply([]*pb.Resource{
		{Name: "pods", Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{Subnets: []*pb.Subnet{{Prefix: "10.1.0.0/24"}}}}},
		deny("by-app", app, &pb.SecurityPort{Name: "web", Protocol: pb.Protocol_TCP}),
		deny("by-job", map[string]string{"job": "x"}, &pb.SecurityPort{Protocol: pb.Protocol_TCP, Port: 9}),
		vmi("first", "10.1.0.11", 80, map[string]string{"app": "a", "job": "x"}),
	})
	for _, s := range []struct {
		name   string
		port   uint32
		labels map[string]string
		denied []uint16 // of 9, 80 and 8080
	}{
		{"fewer policies than first", 80, map[string]string{"app": "a", "n": "1"}, []uint16{80}},
		{"the same as first", 80, map[string]string{"app": "a", "job": "x", "n": "2"}, []uint16{9, 80}},
		{"the same, another port", 8080, map[string]string{"app": "a", "job": "x", "n": "3"}, []uint16{9, 8080}},
		{"the same as the last", 8080, map[string]string{"app": "a", "job": "x", "n": "4"}, []uint16{9, 8080}},
		{"the labels of the last, another port", 80, map[string]string{"app": "a", "job": "x", "n": "4"}, []uint16{9, 80}},
		{"one policy, another one", 80, map[string]string{"job": "x", "n": "5"}, []uint16{9}},
		{"none", 80, map[string]string{"n": "6"}, nil},
	} {
		r := apply([]*pb.Resource{vmi("new", "10.1.0.12", s.port, s.labels)})
		check := func(when string) {
			t.Helper()
			for _, itf := range r.Snapshot.Interfaces {
				if itf.Name != "new" {
					continue
				}
				for _, port := range [...]uint16{9, 80, 8080} {
					want := true
					for _, p := range s.denied {
						want = want && p != port
					}
					q := policy.Query{Proto: 6, DstPort: port, Src: [16]byte{1}}
					if v := r.Snapshot.Policy.Ingress(&q, policy.IdentityWorld, itf.Identity); v.Pass != want {
						t.Errorf("%s, %s: port %d passes %v by %s", s.name, when, port, v.Pass, r.Names.Rule(uint32(v.Rule)))
					}
				}
			}
		}
		check("at once")
		r = apply([]*pb.Resource{deny("other", map[string]string{"app": s.name[:3]})}) // compiles all
		check("compiled anew")
		apply([]*pb.Resource{vmi("last", "10.1.0.13", s.port, s.labels)}, state.Key{Kind: state.VirtualMachineInterface, Name: "new"})
	}
}
