package journey

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// world is a service with a member here, one behind a tunnel and one on its way out.
var world = []string{
	`{"name":"pods","virtualNetwork":{"vni":4097,"label":4097}}`,
	`{"name":"services","virtualNetwork":{}}`,
	`{"name":"shop:web-1","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.11"],"namespace":"shop","labels":{"app":"web"}}}`,
	`{"name":"shop:client","virtualMachineInterface":{"virtualNetwork":"pods","addresses":["10.244.0.30"],"namespace":"shop"}}`,
	`{"name":"shop:web:clusterip-v4","instanceIp":{"address":"10.96.0.10","virtualNetwork":"services"}}`,
	`{"name":"shop:web:clusterip-v4","floatingIp":{"parent":"shop:web:clusterip-v4","floatingIpPortMappings":{"portMappings":[{"srcPort":80,"dstPort":8080}]},
	  "members":[{"virtualMachineInterface":"shop:web-1","address":"10.244.0.11"},
	             {"virtualMachineInterface":"shop:web-2","address":"10.244.1.12","state":"SERVING","tunnel":{"remote":"192.0.2.12","vni":4097},"targetPorts":[{"srcPort":80,"dstPort":9090}]},
	             {"virtualMachineInterface":"shop:web-3","address":"10.244.1.13","tunnel":{"remote":"192.0.2.12","vni":4097}}]}}`,
	`{"name":"shop:web:nodeport-v4","floatingIp":{"address":"192.0.2.10","virtualNetwork":"ip-fabric","floatingIpPortMappings":{"portMappings":[{"srcPort":30080,"dstPort":8080}]},
	  "members":[{"virtualMachineInterface":"shop:web-1","address":"10.244.0.11"}]}}`,
	`{"name":"fabric","networkPolicy":{"virtualNetworks":["ip-fabric","pods"],"rules":[{"source":{"virtualNetwork":"pods"},"destination":{"virtualNetwork":"ip-fabric"},"direction":"BOTH","action":"PASS"}]}}`,
	`{"name":"other","networkPolicy":{"virtualNetworks":["pods","elsewhere"],"rules":[{"action":"PASS"}]}}`,
	`{"name":"use","networkPolicy":{"virtualNetworks":["pods","services","elsewhere"],"rules":[{"source":{"virtualNetwork":"elsewhere"},"action":"PASS"},{"source":{"virtualNetwork":"pods"},"action":"PASS"}]}}`,
	`{"name":"shop:allow","securityPolicy":{"namespace":"shop","subject":{"matchExpressions":[{"key":"app","operator":"In","values":["web"]}]},"egress":[{}]}}`,
	`{"name":"shop:rest","securityPolicy":{"namespace":"shop","subject":{"matchExpressions":[{"key":"app","operator":"DoesNotExist"}]}}}`,
	`{"name":"node","fabric":{"peers":[{"name":"node-b","addresses":["192.0.2.12"]}]}}`,
}

const balancer = `{"name":"shop:web","loadBalancer":{"service":{"namespace":"shop","name":"web","type":"NodePort"},
  "listeners":[{"name":"http","port":80,"nodePort":30080,"pool":{"members":[{"virtualMachineInterface":"shop:web-1","port":8080,"node":"node-a"}]}}],
  "floatingIps":["shop:web:nodeport-v4","shop:web:clusterip-v4"],"instanceIps":["shop:web:clusterip-v4"]}}`

// view is the world after changes: old and new texts in turn.
func view(t *testing.T, changes ...string) *View {
	t.Helper()
	read := func(text string) *pb.Resource {
		for i := 0; i < len(changes); i += 2 {
			text = strings.ReplaceAll(text, changes[i], changes[i+1])
		}
		r := &pb.Resource{}
		if err := protojson.Unmarshal([]byte(text), r); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return r
	}
	v := &View{Balancer: read(balancer), Status: &pb.GetStatusResponse{Node: "node-a", Ports: []*pb.PortStatus{
		{Name: "shop:web-1", State: pb.PortStatus_UP}, {Name: "shop:client", State: pb.PortStatus_UP}}}}
	for _, text := range world {
		v.Resources = append(v.Resources, read(text))
	}
	return v
}

// said is a journey's problems, one a line.
func said(j *pb.ServiceJourney) string {
	var lines []string
	for _, p := range j.GetProblems() {
		lines = append(lines, p.GetSubject()+": "+p.GetDescription())
	}
	return strings.Join(lines, "\n")
}

// takes writes which members of an address take flows, and why not.
func takes(a *pb.ServiceAddress) string {
	var words []string
	for _, m := range a.GetMembers() {
		word := strings.TrimPrefix(m.GetVirtualMachineInterface(), "shop:")
		if !m.GetTakesFlows() {
			word += "(" + m.GetReason() + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// TestJourney follows the service of the world.
func TestJourney(t *testing.T) {
	v := view(t)
	j := Of(v)
	if s := said(j); s != "" {
		t.Errorf("problems: %s", s)
	}
	if len(j.GetAddresses()) != 2 || j.GetAddresses()[0].GetUse() != pb.ServiceAddress_CLUSTER_IP || j.GetAddresses()[1].GetUse() != pb.ServiceAddress_NODE_PORT {
		t.Fatalf("addresses %v", j.GetAddresses())
	}
	a := j.GetAddresses()[0]
	if a.GetAddress() != "10.96.0.10" || a.GetVirtualNetwork() != "services" || a.GetNextHop() != "ECMP over 2 of 3 members" {
		t.Errorf("cluster IP %v", a)
	}
	if got := takes(a); got != "web-1 web-2(terminating: serves only while nobody is ready) web-3" {
		t.Error(got)
	}
	for i, want := range []uint32{8080, 9090, 8080} {
		if got := a.GetMembers()[i].GetTargetPorts()[0].GetDstPort(); got != want {
			t.Errorf("member %d: target port %d, want %d", i, got, want)
		}
	}
	if here, there := a.GetMembers()[0].GetNode(), a.GetMembers()[2].GetNode(); here != "node-a" || there != "node-b" {
		t.Errorf("nodes %s and %s", here, there)
	}
	if len(j.GetNetworkPolicies()) != 2 || j.GetNetworkPolicies()[1].GetName() != "use" || len(j.GetNetworkPolicies()[1].GetRules()) != 1 {
		t.Errorf("network policies %v", j.GetNetworkPolicies())
	}
	if p := j.GetSecurityPolicies(); len(p) != 1 || p[0].GetName() != "shop:allow" || len(p[0].GetDirections()) != 2 {
		t.Errorf("security policies %v", p)
	}
	samples := Samples(v, j, "")
	if len(samples) != 1 || samples[0].Request.GetVirtualMachineInterface() != "shop:client" || samples[0].Request.GetDestination() != "10.96.0.10" {
		t.Errorf("samples %v", samples)
	}
}

// TestMembersInTheWay holds each obstacle to its words and to what comes of it.
func TestMembersInTheWay(t *testing.T) {
	down := func(v *View) {
		v.Status.Peers = []*pb.PeerStatus{{Name: "node-b", Address: "192.0.2.12", State: pb.PeerStatus_DOWN, Reason: "no answer"}}
	}
	for _, tc := range []struct {
		name    string
		changes []string
		view    func(*View)
		takes   string // of the cluster IP
		said    string
	}{
		{"the other node is down", nil, down, "web-1 web-2(node node-b is down: no answer) web-3(node node-b is down: no answer)", "shop:web-3: node node-b is down: no answer"},
		{"nobody is ready", []string{`"shop:web-1","address":"10.244.0.11"`, `"shop:web-1","address":"10.244.0.11","state":"DRAINING"`,
			`"10.244.1.13",`, `"10.244.1.13","state":"DRAINING",`}, nil,
			"web-1(draining: its live flows finish) web-2 web-3(draining: its live flows finish)", "ClusterIP 10.96.0.10: no ready member: those on their way out serve"},
		{"not attached", nil, func(v *View) { v.Status.Ports = nil },
			"web-1(not attached yet: the pod's interface has no port) web-2(terminating: serves only while nobody is ready) web-3", "shop:web-1: not attached yet: the pod's interface has no port"},
		{"all out of reach", []string{`"10.244.1.13",`, `"10.244.1.13","state":"DRAINING",`}, func(v *View) { down(v); v.Status.Ports = nil },
			"web-1(not attached yet: the pod's interface has no port) web-2(node node-b is down: no answer) web-3(draining: its live flows finish)", "ClusterIP 10.96.0.10: no member can be reached"},
		{"internal policy", []string{`"parent"`, `"internalTrafficPolicy":"LOCAL","parent"`, `"shop:web-1","address":"10.244.0.11"`, `"shop:web-1","address":"10.244.0.11","state":"DRAINING"`}, nil,
			"web-1(draining: its live flows finish) web-2(terminating: serves only while nobody is ready) web-3(on another node, and the traffic policy is Local)",
			"internalTrafficPolicy Local and no member here: flows of this node's pods and processes are dropped"},
		{"no node port here", []string{`"floatingIps":["shop:web:nodeport-v4",`, `"floatingIps":[`}, nil, "web-1 web-2(terminating: serves only while nobody is ready) web-3", "listener http: node port 30080 is not served on this node"},
		{"another port", []string{`"srcPort":80,`, `"srcPort":81,`, `"srcPort":30080`, `"srcPort":30081`}, nil, "web-1 web-2(terminating: serves only while nobody is ready) web-3", "listener http: no floating IP maps its port: it is refused"},
		{"a named port that a pod lacks", []string{`"port":8080,`, ``}, nil, "web-1 web-2(terminating: serves only while nobody is ready) web-3", "shop:web-1: has no port"},
		{"no policy with the fabric", []string{`"direction":"BOTH",`, ``}, nil, "web-1 web-2(terminating: serves only while nobody is ready) web-3", "pods: no NetworkPolicy lets ip-fabric reach it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := view(t, tc.changes...)
			if tc.view != nil {
				tc.view(v)
			}
			j := Of(v)
			if got := takes(j.GetAddresses()[0]); got != tc.takes {
				t.Errorf("takes flows: %s\nwant %s", got, tc.takes)
			}
			if !strings.Contains(said(j), tc.said) {
				t.Errorf("problems: %s\nwant %s", said(j), tc.said)
			}
			for _, p := range j.GetProblems() {
				if p.GetRemedy() == "" {
					t.Errorf("%s: nothing to try", p.GetDescription())
				}
			}
		})
	}
}

// TestAttached: where containers come by CNI, addresses are those of attachments, as
// long as they are the pod's; policies of the whole cluster count as others do.
func TestAttached(t *testing.T) {
	const given, waiting = `"addresses":["10.244.0.11"],`, `"attachment":{"uid":"u1"},`
	for _, tc := range []struct {
		attachment, takes string
	}{
		{`{"name":"shop:web-1","attachment":{"uid":"u1","virtualNetwork":"pods","addresses":["10.244.0.11"]}}`, "web-1"},
		{`{"name":"shop:web-1","attachment":{"uid":"u0","virtualNetwork":"pods","addresses":["10.244.0.11"]}}`, "web-1(it has no address of this family)"},
	} {
		v := view(t, given, waiting, `"shop:web-1","address":"10.244.0.11"}`, `"shop:web-1"}`)
		for _, text := range []string{tc.attachment, `{"name":"cnp:all","securityPolicy":{"tier":"ADMIN","namespaceSelector":{},"egress":[{"action":"DENY"}]}}`} {
			r := &pb.Resource{}
			if err := protojson.Unmarshal([]byte(text), r); err != nil {
				t.Fatal(err)
			}
			v.Resources = append(v.Resources, r)
		}
		j := Of(v)
		if got, _, _ := strings.Cut(takes(j.GetAddresses()[0]), " web-2"); got != tc.takes {
			t.Errorf("takes flows: %s, want %s", got, tc.takes)
		}
		p := j.GetSecurityPolicies()
		if len(p) != 2 || p[1].GetName() != "cnp:all" || len(p[1].GetDirections()) != 1 || p[1].GetDirections()[0] != pb.SecurityPolicy_EGRESS {
			t.Errorf("security policies %v", p)
		}
	}
}

// TestLocalOnly: a member that topology leaves out takes flows where the policy is Local.
func TestLocalOnly(t *testing.T) {
	const member = `"shop:web-1","address":"10.244.0.11"`
	if got := takes(Of(view(t, member, member+`,"state":"LOCAL_ONLY"`)).GetAddresses()[0]); !strings.HasPrefix(got, "web-1(left to nearer") {
		t.Error(got)
	}
	if got := takes(Of(view(t, member, member+`,"state":"LOCAL_ONLY"`, `"parent"`, `"internalTrafficPolicy":"LOCAL","parent"`)).GetAddresses()[0]); !strings.HasPrefix(got, "web-1 ") {
		t.Error(got)
	}
}
