package journey

import (
	"maps"
	"slices"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Sample is a packet to ask the forwarder about.
type Sample struct {
	Request *pb.ExplainRequest
	Sample  *pb.ServiceSample // to be filled in
	// Chosen: nobody named the sender. Where it cannot send, the node may.
	Chosen bool
}

// FromNode is the same packet as the node sends it.
func (s Sample) FromNode() Sample {
	s.Request.VirtualMachineInterface, s.Sample.VirtualMachineInterface = vhost0, vhost0
	return s
}

// Samples are one packet for each listener, to the first address that serves it. from
// is the interface that sends; empty: a workload of this node, or the node itself.
func Samples(v *View, j *pb.ServiceJourney, from string) []Sample {
	x := v.index()
	var list []Sample
	for _, l := range x.balancer.GetListeners() {
		a, port := target(j, l)
		if a == nil {
			continue
		}
		sender := from
		if sender == "" {
			sender = x.sender(j, a)
		}
		list = append(list, Sample{
			Request: &pb.ExplainRequest{VirtualMachineInterface: sender, Destination: a.GetAddress(), Protocol: tcpIfNone(l.GetProtocol()), DestinationPort: port},
			Sample:  &pb.ServiceSample{Listener: ListenerName(l), VirtualMachineInterface: sender, FloatingIp: a.GetFloatingIp()},
			Chosen:  from == "" && sender != vhost0,
		})
	}
	return list
}

// target is the first address that serves a listener, and the port there.
func target(j *pb.ServiceJourney, l *pb.Listener) (*pb.ServiceAddress, uint32) {
	for _, a := range j.GetAddresses() {
		if a.GetAddress() == "" {
			continue
		}
		if len(a.GetPortMappings()) == 0 {
			return a, l.GetPort()
		}
		for _, m := range a.GetPortMappings() {
			if serves(m, l) {
				return a, m.GetSrcPort()
			}
		}
	}
	return nil, 0
}

// sender chooses who sends: a workload beside the members that is none of them, else
// one that is, else the node.
func (x *index) sender(j *pb.ServiceJourney, a *pb.ServiceAddress) string {
	if a.GetUse() != pb.ServiceAddress_CLUSTER_IP {
		return vhost0
	}
	beside, member := x.memberNetworks(j), map[string]bool{}
	if len(beside) == 0 {
		beside = x.clientNetworks(a.GetVirtualNetwork())
	}
	for _, m := range a.GetMembers() {
		member[m.GetVirtualMachineInterface()] = true
	}
	best, bestRank := vhost0, 2
	for _, name := range slices.Sorted(maps.Keys(x.interfaces)) {
		if x.ports[name].GetState() != pb.PortStatus_UP || !slices.Contains(beside, x.interfaces[name].GetVirtualNetwork()) {
			continue // of a network that may have no way to the service
		}
		rank := 0
		if member[name] {
			rank++
		}
		if !x.own(name, address(a.GetAddress())).IsValid() {
			continue // of the other family only
		}
		if rank < bestRank {
			best, bestRank = name, rank
		}
	}
	return best
}

// Note puts what the forwarder said of a sample into the journey.
func Note(j *pb.ServiceJourney, s Sample, answer *pb.ExplainResponse) {
	s.Sample.Journey = answer
	j.Samples = append(j.Samples, s.Sample)
	if answer.GetVerdict() == pb.Verdict_DROP {
		j.Problems = append(j.Problems, &pb.ServiceProblem{
			Subject:     "listener " + s.Sample.GetListener() + " from " + s.Sample.GetVirtualMachineInterface(),
			Description: because("dropped, "+answer.GetReason(), answer.GetDoc()), Remedy: answer.GetRemedy(),
		})
	}
}
