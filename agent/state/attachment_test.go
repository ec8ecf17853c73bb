package state

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// step is a transaction and the host ports that there are after it.
type step struct {
	what    string
	owner   string
	upserts []string
	deletes []Key
	borrows []string
	renew   bool
	says    string // "": accepted
	want    []string
}

const (
	webPort8080 = `{"name":"shop:web-0","attachment":{"uid":"u0","containerId":"c0","netns":"/run/netns/c0","virtualNetwork":"pods","addresses":["10.244.0.200","fd00:244::200"],"hostPorts":[{"hostPort":8080,"containerPort":80}]}}`
	waits       = `{"name":"shop:web-0","virtualMachineInterface":{"virtualNetwork":"pods","attachment":{"uid":"u0"}}}`
	onVhost     = "shop:web-0:hostport:192.0.2.10"
	onNode      = "shop:web-0:hostport:192.0.2.11"
)

// TestHostPortsFollowTheAttachment holds that the floating IPs of host ports are there
// exactly while their attachment is in effect, whoever changes what, and never stand in
// the way of a controller.
func TestHostPortsFollowTheAttachment(t *testing.T) {
	s := newBase(t)
	for _, st := range []step{
		{what: "attached", owner: OwnerCNI, upserts: []string{webPort8080}, want: []string{onVhost, onNode}},
		{what: "another pod of the name", owner: "kube", upserts: []string{strings.Replace(waits, "u0", "u1", 1)}},
		{what: "the pod is back", owner: "kube", upserts: []string{waits}, want: []string{onVhost, onNode}},
		{what: "in another network", owner: "kube", upserts: []string{strings.Replace(waits, "pods", "labelled", 1)}},
		{what: "and back", owner: "kube", upserts: []string{waits}, want: []string{onVhost, onNode}},
		{what: "the interface goes", owner: "kube", deletes: []Key{{VirtualMachineInterface, "shop:web-0"}}},
		{what: "somebody takes the port meanwhile", owner: "kube", upserts: []string{`{"name":"greedy","floatingIp":{"address":"192.0.2.10","virtualNetwork":"ip-fabric","floatingIpPortMappings":{"portMappings":[{"srcPort":8080}]},"virtualMachineInterfaces":["web-1"]}}`}},
		{what: "the interface comes back", owner: "kube", upserts: []string{waits}, want: []string{onNode}},
		{what: "the runtime asks again", owner: OwnerCNI, upserts: []string{strings.Replace(webPort8080, `"c0"`, `"c1"`, 1)}, says: "served by FloatingIP/greedy", want: []string{onNode}},
		{what: "the port is free again", owner: "kube", deletes: []Key{{FloatingIP, "greedy"}}, want: []string{onNode}},
		{what: "and asked for", owner: OwnerCNI, upserts: []string{strings.Replace(webPort8080, `"c0"`, `"c1"`, 1)}, want: []string{onVhost, onNode}},
		{what: "who has the port keeps it", owner: "kube", upserts: []string{`{"name":"greedy","floatingIp":{"address":"192.0.2.11","virtualNetwork":"ip-fabric","floatingIpPortMappings":{"portMappings":[{"srcPort":8080}]},"virtualMachineInterfaces":["web-1"]}}`},
			says: "served by FloatingIP/" + onNode, want: []string{onVhost, onNode}},
		{what: "one address of the node", owner: OwnerCNI, upserts: []string{strings.Replace(webPort8080, `"containerPort"`, `"hostIp":"192.0.2.11","containerPort"`, 1)}, want: []string{onNode}},
		{what: "an address that is not the node's", owner: OwnerCNI, upserts: []string{strings.Replace(webPort8080, `"containerPort"`, `"hostIp":"198.51.100.53","containerPort"`, 1)}},
		{what: "all of the other family", owner: OwnerCNI, upserts: []string{strings.Replace(webPort8080, `"containerPort"`, `"hostIp":"::","containerPort"`, 1)}},
		{what: "the node gets an address of it", owner: "kube", upserts: []string{strings.Replace(base[2], `"192.0.2.11"`, `"192.0.2.11","2001:db8::11"`, 1)}, want: []string{"shop:web-0:hostport:2001:db8::11"}},
		{what: "the node borrows its uplink's", owner: "kube", upserts: []string{strings.Replace(strings.Replace(base[2], `"addresses":["192.0.2.10/24"]`, "", 1), `"192.0.2.11"`, `"192.0.2.11","2001:db8::11"`, 1)},
			borrows: []string{"2001:db8::12", "192.0.2.12"}, want: []string{"shop:web-0:hostport:2001:db8::11", "shop:web-0:hostport:2001:db8::12"}},
		{what: "the uplink has another", owner: OwnerCNI, renew: true, borrows: []string{"2001:db8::13"}, want: []string{"shop:web-0:hostport:2001:db8::11", "shop:web-0:hostport:2001:db8::13"}},
		{what: "somebody serves at an address that the uplink does not have yet", owner: "kube", upserts: []string{`{"name":"greedy","floatingIp":{"address":"2001:db8::14","virtualNetwork":"ip-fabric","floatingIpPortMappings":{"portMappings":[{"srcPort":8080}]},"virtualMachineInterfaces":["web-1"]}}`},
			borrows: []string{"2001:db8::13"}, want: []string{"shop:web-0:hostport:2001:db8::11", "shop:web-0:hostport:2001:db8::13"}},
		{what: "and now it has", owner: OwnerCNI, renew: true, borrows: []string{"2001:db8::14"}, want: []string{"shop:web-0:hostport:2001:db8::11"}},
		{what: "detached", owner: OwnerCNI, deletes: []Key{{Attachment, "shop:web-0"}}},
	} {
		req := Request{Owner: st.owner, Deletes: st.deletes, Renew: st.renew}
		for _, text := range st.upserts {
			req.Upserts = append(req.Upserts, resource(t, text))
		}
		for _, a := range st.borrows {
			req.Borrowed = append(req.Borrowed, netip.MustParseAddr(a))
		}
		tx, err := s.Begin(req)
		switch {
		case err == nil && st.says == "":
			tx.Commit()
		case err == nil, st.says == "", !strings.Contains(err.Error(), st.says):
			t.Fatalf("%s: %v; want %q", st.what, err, st.says)
		}
		var have []string
		for name, r := range s.Of(FloatingIP) {
			if r.GetOwner() == OwnerCNI {
				have = append(have, name)
			}
		}
		slices.Sort(have)
		if !slices.Equal(have, st.want) || s.rebuilt() != "" {
			t.Fatalf("%s: host ports %v; want %v (%s)", st.what, have, st.want, s.rebuilt())
		}
		fresh := New()
		if err := fresh.Restore(s.Generation(), s.All()); err != nil || fresh.Digest() != s.Digest() {
			t.Fatalf("%s: kept and restored: %v", st.what, err)
		}
	}
}

// TestInterfaceTakesFromItsAttachment holds what an interface is with one and without.
func TestInterfaceTakesFromItsAttachment(t *testing.T) {
	s := newBase(t)
	vmi := s.Interface("shop:web-0")
	if Waiting(vmi) || vmi.GetTap().GetNetns() != "/run/netns/c0" || vmi.GetMacAddress() != "02:00:00:00:04:01" || !slices.Equal(vmi.GetAddresses(), []string{"10.244.0.200"}) {
		t.Errorf("attached: %v", vmi)
	}
	given := `{"name":"shop:web-0","virtualMachineInterface":{"virtualNetwork":"pods","attachment":{"uid":"u0"},"addresses":["fd00:244::77"],"macAddress":"02:00:00:00:04:77","tap":{"mtu":1400,"queues":2}}}`
	tx, err := s.Begin(Request{Owner: "kube", Upserts: []*pb.Resource{resource(t, given)}})
	if err != nil {
		t.Fatal(err)
	}
	vmi = s.Interface("shop:web-0")
	if vmi.GetTap().GetMtu() != 1400 || vmi.GetTap().GetQueues() != 2 || vmi.GetMacAddress() != "02:00:00:00:04:77" || !slices.Equal(vmi.GetAddresses(), []string{"fd00:244::77", "10.244.0.200"}) {
		t.Errorf("attached, with things of its own: %v", vmi)
	}
	tx.Rollback()
	if vmi := s.Interface("shop:web-0"); vmi.GetTap().GetMtu() != 0 || s.rebuilt() != "" {
		t.Errorf("rolled back: %v (%s)", vmi, s.rebuilt())
	}
	if tx, err = s.Begin(Request{Owner: OwnerCNI, Deletes: []Key{{Attachment, "shop:web-0"}}}); err != nil {
		t.Fatal(err)
	}
	tx.Commit()
	if vmi := s.Interface("shop:web-0"); !Waiting(vmi) || len(vmi.GetAddresses()) != 0 {
		t.Errorf("detached: %v", vmi)
	}
	if Waiting(s.Interface("web-1")) || s.Interface("nobody") != nil {
		t.Error("an interface without attachment waits, or one that does not exist is there")
	}
}
