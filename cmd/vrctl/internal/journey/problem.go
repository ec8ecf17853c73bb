package journey

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// problems finds what keeps flows from being served, in the order of the journey.
func (x *index) problems(j *pb.ServiceJourney) []*pb.ServiceProblem {
	var list []*pb.ServiceProblem
	add := func(subject, description, remedy string) {
		p := &pb.ServiceProblem{Subject: subject, Description: description, Remedy: remedy}
		if !slices.ContainsFunc(list, func(q *pb.ServiceProblem) bool { return q.GetSubject() == subject && q.GetDescription() == description }) {
			list = append(list, p)
		}
	}
	if len(j.GetAddresses()) == 0 {
		add(j.GetName(), "no floating IP carries its traffic: nobody can reach it", "see whether the control plane runs and what its log says of this service")
	}
	for _, l := range x.balancer.GetListeners() {
		x.listenerProblems(j, l, add)
	}
	health := uint32(0) // of the service: one of its floating IPs has it
	for _, a := range j.GetAddresses() {
		health = max(health, a.GetHealthCheckPort())
	}
	for _, a := range j.GetAddresses() {
		x.addressProblems(a, health, add)
		for _, m := range a.GetMembers() {
			memberProblem(m, add)
		}
	}
	for _, network := range x.memberNetworks(j) {
		if !x.fabricReaches(network) {
			add(network, "no NetworkPolicy lets ip-fabric reach it: probes of the kubelet and flows of the node fail", "join ip-fabric and "+network+" by a NetworkPolicy with a PASS rule")
		}
	}
	return list
}

type adder func(subject, description, remedy string)

func (x *index) listenerProblems(j *pb.ServiceJourney, l *pb.Listener, add adder) {
	name, mapped, atNodes := ListenerName(l), false, l.GetNodePort() == 0
	for _, a := range j.GetAddresses() {
		mapped = mapped || len(a.GetPortMappings()) == 0
		for _, m := range a.GetPortMappings() {
			if serves(m, l) {
				mapped = true
				atNodes = atNodes || a.GetUse() == pb.ServiceAddress_NODE_PORT && m.GetSrcPort() == l.GetNodePort()
			}
		}
	}
	switch {
	case len(j.GetAddresses()) == 0:
	case !mapped:
		add("listener "+name, "no floating IP maps its port: it is refused", "see what the control plane's log says of this service")
	case !atNodes:
		add("listener "+name, fmt.Sprintf("node port %d is not served on this node", l.GetNodePort()), "see whether Fabric has node addresses: vrctl get Fabric")
	}
	for _, m := range l.GetPool().GetMembers() {
		if m.GetPort() == 0 {
			add(m.GetVirtualMachineInterface(), "has no port "+l.GetPool().GetTargetPort()+": it is no member of listener "+name, "name the port in the pod, or correct the service's targetPort")
		}
	}
}

// addressProblems says what comes of a floating IP whose members do not take all flows.
func (x *index) addressProblems(a *pb.ServiceAddress, health uint32, add adder) {
	subject := strings.TrimSpace(UseName(a.GetUse()) + " " + a.GetAddress())
	count := map[pb.Member_State]int{}
	usable, here := 0, 0
	for _, m := range a.GetMembers() {
		count[m.GetState()]++
		if m.GetTakesFlows() {
			usable++
			if x.here(m) {
				here++
			}
		}
	}
	const look = "see which pods match the selector and are ready: kubectl get endpointslices -l kubernetes.io/service-name="
	service := cmp.Or(x.balancer.GetService().GetName(), "NAME")
	if ns := x.balancer.GetService().GetNamespace(); ns != "" {
		service += " -n " + ns
	}
	outside := a.GetUse() != pb.ServiceAddress_CLUSTER_IP && a.GetExternalTrafficPolicy() == pb.FloatingIP_LOCAL
	inside := a.GetInternalTrafficPolicy() == pb.FloatingIP_LOCAL
	switch all := len(a.GetMembers()); {
	case all == 0:
		add(subject, "no ready member: refused at once", look+service)
	case count[pb.Member_DRAINING] == all:
		add(subject, "all members are draining: new flows are refused at once, live ones finish", look+service)
	case usable == 0 && !outside && !inside:
		add(subject, "no member can be reached: see below", "vrctl status -o wide")
	case count[pb.Member_READY]+count[pb.Member_LOCAL_ONLY] == 0:
		add(subject, "no ready member: those on their way out serve", look+service)
	}
	if len(a.GetMembers()) == 0 || here > 0 {
		return
	}
	if outside {
		remedy := "send to a node that has a member, or set externalTrafficPolicy Cluster"
		if health != 0 {
			remedy += fmt.Sprintf("; load balancers see it at port %d, which answers 503 here", health)
		}
		add(subject, "externalTrafficPolicy Local and no member here: what comes from outside is dropped", remedy)
	}
	if inside {
		add(subject, "internalTrafficPolicy Local and no member here: flows of this node's pods and processes are dropped", "run a member on this node, or set internalTrafficPolicy Cluster")
	}
}

// memberProblem names what is wrong with a member; to be on one's way out is not.
func memberProblem(m *pb.ServiceMember, add adder) {
	if m.GetTakesFlows() || m.GetState() != pb.Member_READY {
		return
	}
	name := m.GetVirtualMachineInterface()
	switch {
	case strings.HasPrefix(m.GetReason(), "node "):
		add(name, m.GetReason(), "see the way to the node: vrctl status -o wide")
	case strings.HasPrefix(m.GetReason(), "not attached"):
		add(name, m.GetReason(), "see what the CNI plugin said: kubectl describe pod, and the container runtime's log")
	case strings.HasPrefix(m.GetReason(), "there is no interface"):
		add(name, m.GetReason(), "see whether the control plane runs: vrctl status")
	case strings.HasPrefix(m.GetReason(), "its port"):
		add(name, m.GetReason(), "vrctl status -o wide")
	case strings.HasPrefix(m.GetReason(), "it has no address"):
		add(name, m.GetReason(), "give the pod an address of both families, or the service one family")
	}
}

// UseName names a kind of address as Kubernetes does.
func UseName(u pb.ServiceAddress_Use) string {
	switch u {
	case pb.ServiceAddress_CLUSTER_IP:
		return "ClusterIP"
	case pb.ServiceAddress_NODE_PORT:
		return "NodePort"
	case pb.ServiceAddress_LOAD_BALANCER:
		return "LoadBalancer"
	}
	return "external address"
}

// ListenerName names a listener as users know it: its name, or 80/TCP.
func ListenerName(l *pb.Listener) string {
	if l.GetName() != "" {
		return l.GetName()
	}
	return number(l.GetPort()) + "/" + tcpIfNone(l.GetProtocol()).String()
}
