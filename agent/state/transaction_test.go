package state

import (
	"errors"
	"strings"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// TestDeletes holds that nothing is deleted from under what names it, and that a
// transaction may delete or move both together.
func TestDeletes(t *testing.T) {
	for _, tc := range []struct {
		name    string
		upserts []string
		deletes []Key
		says    string // empty: accepted
	}{
		{"a network with interfaces", nil, []Key{{VirtualNetwork, "pods"}}, "this transaction deletes"},
		{"an interface behind a floating IP", nil, []Key{{VirtualMachineInterface, "web-1"}}, "this transaction deletes"},
		{"a parent", nil, []Key{{InstanceIP, "shared"}}, "this transaction deletes"},
		{"a floating IP of a load balancer", nil, []Key{{FloatingIP, "web"}}, "this transaction deletes"},
		{"a floating IP with its load balancer", nil, []Key{{FloatingIP, "web"}, {LoadBalancer, "shop:web"}}, ""},
		{"a load balancer of what is not there", []string{`{"name":"shop:web","loadBalancer":{"instanceIps":["gone"]}}`}, nil, "names InstanceIP/gone, which does not exist"},
		{"the node's network", nil, []Key{{VirtualNetwork, FabricNetwork}}, "always exists"},
		{"what is upserted too", []string{base[1]}, []Key{{VirtualNetwork, "services"}}, "both"},
		{"the same twice", []string{base[1], base[1]}, nil, "already"},
		{"who names it goes too", nil, []Key{{InstanceIP, "shared"}, {FloatingIP, "lent"}}, ""},
		{"who names it changes too", []string{`{"name":"lent","floatingIp":{"address":"10.96.0.20","virtualNetwork":"services"}}`}, []Key{{InstanceIP, "shared"}}, ""},
		{"an address changes hands", []string{
			`{"name":"v4-only","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.11"]}}`,
			`{"name":"web-1","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.12"]}}`,
		}, nil, ""},
		{"a VRF moves on", []string{
			`{"name":"pods","virtualNetwork":{"vrf":"renamed","subnets":[{"prefix":"10.244.0.0/24","gateway":"10.244.0.1"},{"prefix":"fd00:244::/64","gateway":"fd00:244::1"}]}}`,
			`{"name":"out","route":{"vrf":"renamed","prefix":"0.0.0.0/0","nextHops":[{"vrf":"ip-fabric"}]}}`,
		}, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newBase(t)
			before := s.Digest()
			var upserts []*pb.Resource
			for _, text := range tc.upserts {
				upserts = append(upserts, resource(t, text))
			}
			tx, err := s.Begin(Request{Owner: OwnerOperator, Upserts: upserts, Deletes: tc.deletes})
			var invalid *Error
			switch {
			case tc.says == "" && err == nil:
				if tx.Commit(); s.Digest() == before || s.rebuilt() != "" {
					t.Error("nothing changed, or an index is wrong: " + s.rebuilt())
				}
			case tc.says == "":
				t.Error(err)
			case !errors.As(err, &invalid):
				t.Fatalf("accepted, or failed otherwise: %v", err)
			case !strings.Contains(err.Error(), tc.says) || s.Digest() != before || s.rebuilt() != "":
				t.Errorf("%v, want %q and the state as it was (%s)", err, tc.says, s.rebuilt())
			}
		})
	}
}

// TestSameStateSameDigest holds that the digest does not depend on the way.
func TestSameStateSameDigest(t *testing.T) {
	a, b := newBase(t), New()
	for i := len(base) - 1; i >= 0; i-- { // one by one, and everything twice
		for _, text := range base[:len(base)-i] {
			tx, err := b.Begin(Request{Owner: "other", Upserts: []*pb.Resource{resource(t, text)}})
			if err != nil {
				t.Fatal(err)
			}
			tx.Commit()
		}
	}
	if a.Digest() != b.Digest() {
		t.Error("two states with the same resources have two digests")
	}
	c := New()
	if err := c.Restore(9, b.All()); err != nil || c.Digest() != b.Digest() || c.Generation() != 9 || c.Owned("other") != len(base) {
		t.Errorf("restored: %v, generation %d, %d owned", err, c.Generation(), c.Owned("other"))
	}
}
