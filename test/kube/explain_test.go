//go:build linux && kube

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/probe"
)

// explained is a Service with its pods, and what vrctl says of it on each node.
type explained struct {
	*policyWorld
	service *corev1.Service
}

// TestExplain: what `vrctl explain svc/NAMESPACE/NAME` says of a Service of a real cluster
// is what connections to it meet, on every node.
func TestExplain(t *testing.T) {
	t.Parallel()
	w := &explained{policyWorld: &policyWorld{world: in(t, newCluster(t, cluster.Options{Dataplane: cluster.VRouter}), "explain")}}
	w.deploy("web", 2, podSpec(""))
	w.service = w.expose("web", corev1.ServiceTypeNodePort, map[string]string{"app": "web"}, nil)
	w.deployed("web")
	for _, n := range w.Nodes {
		w.pod("friend-"+n.Name, n.Name, map[string]string{"role": "friend"})
		w.pod("stranger-"+n.Name, n.Name, map[string]string{"role": "stranger"})
	}
	for _, step := range []struct {
		name string
		take func()
	}{{"members", w.members}, {"sessions", w.sessions}, {"policy", w.policy}, {"local", w.local}, {"nobody", w.nobody}} {
		t.Log(step.name)
		step.take()
	}
}

// journey asks vrctl on a node.
func (w *explained) journey(n *cluster.Node, args ...string) (*pb.ServiceJourney, error) {
	out, err := n.VRouter.VRCtl(w.t.Context(), append([]string{"explain", "svc/" + w.namespace + "/web", "-o", "json"}, args...)...)
	if err != nil {
		return nil, err
	}
	j := &pb.ServiceJourney{}
	return j, protojson.Unmarshal([]byte(out), j)
}

// says waits until vrctl says something of the Service on a node.
func (w *explained) says(what string, n *cluster.Node, args []string, check func(*pb.ServiceJourney) error) {
	w.t.Helper()
	w.until(n.Name+" says "+what, func(context.Context) error {
		j, err := w.journey(n, args...)
		if err != nil {
			return err
		}
		return check(j)
	})
}

// memberLine tells one member of an address in a line: name, node, way, target, and whether it
// takes flows.
func memberLine(m *pb.ServiceMember) string {
	way := "here"
	if m.GetTunnel() != nil {
		way = "by " + m.GetTunnel().GetRemote()
	}
	takes := "takes flows"
	if !m.GetTakesFlows() {
		takes = m.GetReason()
	}
	return fmt.Sprintf("%s on %s %s, %s port %d: %s", m.GetVirtualMachineInterface(), m.GetNode(), way, m.GetAddress(), m.GetTargetPorts()[0].GetDstPort(), takes)
}

// members: every address of the Service is told, with every pod at its own address, here or
// behind the other node's tunnel; and they answer there.
func (w *explained) members() {
	pods, err := w.Client().CoreV1().Pods(w.namespace).List(w.t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
	w.must(err)
	for i, n := range w.Nodes {
		want := map[string][]string{}
		for family := range n.Addresses {
			var lines []string
			for _, p := range pods.Items {
				way := "here"
				if p.Spec.NodeName != n.Name {
					way = "by " + w.Nodes[1-i].Addresses[0].String()
				}
				lines = append(lines, fmt.Sprintf("%s:%s on %s %s, %s port %d: takes flows", w.namespace, p.Name, p.Spec.NodeName, way, p.Status.PodIPs[family].IP, echoPort))
			}
			slices.Sort(lines)
			want["CLUSTER_IP "+w.service.Spec.ClusterIPs[family]] = lines
			want["NODE_PORT "+n.Addresses[family].String()] = lines
		}
		w.says("who serves the Service", n, nil, func(j *pb.ServiceJourney) error {
			got := map[string][]string{}
			for _, a := range j.GetAddresses() {
				var lines []string
				for _, m := range a.GetMembers() {
					lines = append(lines, memberLine(m))
				}
				slices.Sort(lines)
				got[a.GetUse().String()+" "+a.GetAddress()] = lines
			}
			if !maps.EqualFunc(got, want, slices.Equal) || len(j.GetProblems()) > 0 {
				return fmt.Errorf("%v, problems %v; want %v", got, j.GetProblems(), want)
			}
			return nil
		})
		for _, to := range append(clusterIPs(w.service), nodePorts(w.service, n, "tcp")...) {
			w.reached(w.network("friend-"+n.Name), "tcp", to, w.names("web")...)
		}
	}
}

// sessions: the sessions that are told of each member are the connections that it has.
func (w *explained) sessions() {
	n := w.Nodes[0]
	client := w.pod("client", n.Name, nil)
	before := w.perMember(n)
	has := map[string]uint64{}
	for range 20 {
		has[w.namespace+":"+w.open(w.network(client.Name), clusterIPs(w.service)[0]).Server]++
	}
	w.until("the sessions of each member are told", func(context.Context) error {
		now := w.perMember(n)
		// Those of earlier calls end meanwhile.
		for name, count := range has {
			if now[name] < count || now[name] > count+before[name] {
				return fmt.Errorf("%v; want %v, and at most as many more as %v", now, has, before)
			}
		}
		return nil
	})
	out, err := n.VRouter.VRCtl(w.t.Context(), "flow", "list", "--svc", w.namespace+"/web", "--vmi", w.namespace+":client", "-o", "json")
	w.must(err)
	if count := strings.Count(out, `"floatingIp":`); count != 20 {
		w.t.Errorf("vrctl flow list has %d sessions of the client; want 20", count)
	}
}

// perMember returns the sessions of the Service's first cluster IP by member.
func (w *explained) perMember(n *cluster.Node) map[string]uint64 {
	w.t.Helper()
	j, err := w.journey(n)
	w.must(err)
	count := map[string]uint64{}
	for _, a := range j.GetAddresses() {
		if a.GetAddress() == w.service.Spec.ClusterIPs[0] {
			for _, m := range a.GetMembers() {
				count[m.GetVirtualMachineInterface()] = m.GetSessions()
			}
		}
	}
	return count
}

// policy: a NetworkPolicy that selects the members is named, and the verdict of the sample
// is what the sender's connections meet. The Service stays on the node, so that the member
// of the sample is one that the node decides about.
func (w *explained) policy() {
	w.apply("friends", map[string]string{"app": "web"}, func(s *networkingv1.NetworkPolicySpec) {
		s.Ingress = []networkingv1.NetworkPolicyIngressRule{{
			From: []networkingv1.NetworkPolicyPeer{role("friend")}, Ports: []networkingv1.NetworkPolicyPort{port(corev1.ProtocolTCP, intstr.FromString("echo"))},
		}}
	})
	w.patchService("web", `{"spec":{"internalTrafficPolicy":"Local"}}`)
	for _, n := range w.Nodes {
		for who, want := range map[string]struct {
			verdict pb.Verdict_Value
			reason  string
			outcome probe.Outcome
		}{
			"friend":   {pb.Verdict_FORWARD, "", probe.Answered},
			"stranger": {pb.Verdict_DROP, "SECURITY_INGRESS", probe.TimedOut},
		} {
			name := who + "-" + n.Name
			w.outcome(w.network(name), "tcp", clusterIPs(w.service)[0], want.outcome)
			w.says("what becomes of the "+who, n, []string{"--port", "tcp", "--from", w.namespace + ":" + name}, func(j *pb.ServiceJourney) error {
				if len(j.GetSamples()) != 1 {
					return fmt.Errorf("%d samples", len(j.GetSamples()))
				}
				s := j.GetSamples()[0].GetJourney()
				if s.GetVerdict() != want.verdict || want.reason != "" && s.GetReason() != want.reason {
					return fmt.Errorf("%v %s; want %v %s", s.GetVerdict(), s.GetReason(), want.verdict, want.reason)
				}
				blamed := slices.ContainsFunc(j.GetProblems(), func(p *pb.ServiceProblem) bool {
					return strings.Contains(p.GetSubject(), name) && strings.Contains(p.GetDescription(), "SECURITY_INGRESS") && p.GetRemedy() != ""
				})
				if blamed != (want.verdict == pb.Verdict_DROP) {
					return fmt.Errorf("problems: %v", j.GetProblems())
				}
				var policies []string
				for _, p := range j.GetSecurityPolicies() {
					policies = append(policies, p.GetName()+" "+p.GetTier().String()+" "+fmt.Sprint(len(p.GetVirtualMachineInterfaces())))
				}
				if !slices.Equal(policies, []string{w.namespace + ":friends NAMESPACE 1"}) {
					return fmt.Errorf("policies %v", policies)
				}
				return nil
			})
		}
	}
}

// local: under a Local policy only the node's own pod is said to take flows, and does; where
// the node has none, calls are dropped, and said to be.
func (w *explained) local() {
	for _, n := range w.Nodes {
		var here []string
		w.says("who takes flows", n, nil, func(j *pb.ServiceJourney) error {
			here = nil
			for _, a := range j.GetAddresses() {
				for _, m := range a.GetMembers() {
					if a.GetAddress() == w.service.Spec.ClusterIPs[0] && m.GetTakesFlows() {
						here = append(here, strings.TrimPrefix(m.GetVirtualMachineInterface(), w.namespace+":"))
					}
				}
			}
			if len(here) != 1 {
				return fmt.Errorf("%v", here)
			}
			return nil
		})
		w.reached(w.network("friend-"+n.Name), "tcp", clusterIPs(w.service)[0], here...)
	}
	w.scale("web", 1)
	var left *corev1.Pod
	w.until("one pod is left", func(context.Context) error {
		names := w.names("web")
		if len(names) != 1 {
			return fmt.Errorf("%v", names)
		}
		left = w.ready(names[0])
		return nil
	})
	for _, n := range w.Nodes {
		empty := n.Name != left.Spec.NodeName
		want := probe.Answered
		if empty {
			want = probe.TimedOut
		}
		w.outcome(w.network("friend-"+n.Name), "tcp", clusterIPs(w.service)[0], want)
		w.says("whether it has a member", n, nil, func(j *pb.ServiceJourney) error {
			if said(j, "internalTrafficPolicy Local and no member here") != empty {
				return fmt.Errorf("%v", j.GetProblems())
			}
			return nil
		})
	}
}

// said reports whether a journey has a problem with a description.
func said(j *pb.ServiceJourney, part string) bool {
	return slices.ContainsFunc(j.GetProblems(), func(p *pb.ServiceProblem) bool { return strings.Contains(p.GetDescription(), part) })
}

// nobody: without pods calls are refused at once, and said to be; the Service that is gone
// is not there.
func (w *explained) nobody() {
	w.scale("web", 0)
	for _, n := range w.Nodes {
		both(clusterIPs(w.service), func(network string, to netip.AddrPort, _ int) {
			w.outcome(w.network("friend-"+n.Name), network, to, probe.Refused)
		})
		w.says("that nobody is ready", n, nil, func(j *pb.ServiceJourney) error {
			if !said(j, "no ready member: refused at once") {
				return fmt.Errorf("%v", j.GetProblems())
			}
			return nil
		})
	}
	w.must(w.Client().CoreV1().Services(w.namespace).Delete(w.t.Context(), "web", metav1.DeleteOptions{}))
	w.until("vrctl finds no Service", func(context.Context) error {
		_, err := w.journey(w.Nodes[0])
		if err == nil {
			return errors.New("it is there")
		}
		if !strings.Contains(err.Error(), "there is no LoadBalancer") {
			return err
		}
		return nil
	})
}
