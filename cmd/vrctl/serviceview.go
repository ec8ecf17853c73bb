package main

import (
	"bytes"
	"fmt"
	"net"
	"strings"

	"github.com/vrouter-go/vrouter/cmd/vrctl/internal/journey"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// printService writes a service's journey from the load balancer to the pods, in the order of the object model.
func (a *app) printService(j *vrouterv1.ServiceJourney) error {
	lb := j.GetLoadBalancer()
	head := "LoadBalancer " + j.GetName()
	if name := serviceName(lb.GetService()); name != "" {
		head = "Service " + name + " (" + serviceType(lb.GetService()) + "), " + head
	}
	fmt.Fprintf(a.out, "%s, provider NATIVE, seen from %s at generation %d\n", head, unknown(j.GetNode()), j.GetGeneration())
	for _, l := range lb.GetListeners() {
		if err := a.printListener(l); err != nil {
			return err
		}
	}
	for _, address := range j.GetAddresses() {
		if err := a.printAddress(address); err != nil {
			return err
		}
	}
	a.printPolicies(j)
	for _, s := range j.GetSamples() {
		if err := a.printSample(s); err != nil {
			return err
		}
	}
	a.printProblems(j.GetProblems())
	return nil
}

func (a *app) printListener(l *vrouterv1.Listener) error {
	fmt.Fprintf(a.out, "\nlistener %s\n", listener(l))
	if len(l.GetPool().GetMembers()) == 0 {
		fmt.Fprintln(a.out, "  pool       empty")
		return nil
	}
	fmt.Fprintf(a.out, "  pool       target port %s, %s ready\n", unknown(l.GetPool().GetTargetPort()), readyMembers(l))
	return a.indented(func(w *bytes.Buffer) error { return printTable(w, poolColumns, l.GetPool().GetMembers(), true) })
}

var poolColumns = []column[*vrouterv1.PoolMember]{
	{title: "MEMBER", value: (*vrouterv1.PoolMember).GetVirtualMachineInterface},
	{title: "ADDRESS", value: (*vrouterv1.PoolMember).GetAddress},
	{title: "PORT", value: func(m *vrouterv1.PoolMember) string { return number(m.GetPort()) }},
	{title: "STATE", value: func(m *vrouterv1.PoolMember) string { return memberState(m.GetState()) }},
	{title: "NODE", value: (*vrouterv1.PoolMember).GetNode},
}

func memberState(s vrouterv1.Member_State) string {
	if s == vrouterv1.Member_STATE_UNSPECIFIED {
		return vrouterv1.Member_READY.String()
	}
	return s.String()
}

func (a *app) printAddress(s *vrouterv1.ServiceAddress) error {
	fmt.Fprintf(a.out, "\n%s %s in %s\n", journey.UseName(s.GetUse()), s.GetAddress(), s.GetVirtualNetwork())
	fact := func(name, value string) {
		if value != "" {
			fmt.Fprintf(a.out, "  %-12s %s\n", name, value)
		}
	}
	fact("InstanceIP", s.GetInstanceIp())
	mappings := "every port, unchanged"
	if len(s.GetPortMappings()) > 0 {
		mappings = list(s.GetPortMappings(), portMapping)
	}
	fact("FloatingIP", s.GetFloatingIp()+", maps "+mappings)
	fact("policies", trafficPolicies(s))
	fact("from", strings.Join(s.GetSourceRanges(), ","))
	if s.GetHealthCheckPort() != 0 {
		fact("health check", "port "+number(s.GetHealthCheckPort())+" of the node")
	}
	next := s.GetNextHop()
	if t := s.GetSessionAffinity(); t.GetType() == vrouterv1.SessionAffinity_CLIENT_IP {
		timeout := t.GetTimeoutSeconds()
		if timeout == 0 {
			timeout = 10800
		}
		next += fmt.Sprintf(", a client stays with its member for %d s", timeout)
	}
	fact("next hop", next)
	fact("sessions", fmt.Sprint(s.GetSessions()))
	if len(s.GetMembers()) == 0 {
		return nil
	}
	return a.indented(func(w *bytes.Buffer) error { return printTable(w, memberColumns, s.GetMembers(), a.output == "wide") })
}

// trafficPolicies names those that are not the default.
func trafficPolicies(s *vrouterv1.ServiceAddress) string {
	var words []string
	if s.GetExternalTrafficPolicy() == vrouterv1.FloatingIP_LOCAL {
		words = append(words, "externalTrafficPolicy Local")
	}
	if s.GetInternalTrafficPolicy() == vrouterv1.FloatingIP_LOCAL {
		words = append(words, "internalTrafficPolicy Local")
	}
	return strings.Join(words, ", ")
}

var memberColumns = []column[*vrouterv1.ServiceMember]{
	{title: "MEMBER", value: (*vrouterv1.ServiceMember).GetVirtualMachineInterface},
	{title: "NODE", value: (*vrouterv1.ServiceMember).GetNode},
	{title: "BY", value: func(m *vrouterv1.ServiceMember) string {
		if t := m.GetTunnel(); t != nil {
			return "tunnel " + tunnel(t)
		}
		if m.GetHost() {
			return "fabric"
		}
		return "interface"
	}},
	{title: "TARGET", value: func(m *vrouterv1.ServiceMember) string {
		if len(m.GetTargetPorts()) == 0 {
			return m.GetAddress()
		}
		return list(m.GetTargetPorts(), func(p *vrouterv1.PortMapping) string {
			return net.JoinHostPort(m.GetAddress(), number(p.GetDstPort()))
		})
	}},
	{title: "STATE", value: func(m *vrouterv1.ServiceMember) string { return memberState(m.GetState()) }},
	{title: "SESSIONS", value: func(m *vrouterv1.ServiceMember) string { return fmt.Sprint(m.GetSessions()) }},
	{title: "TAKES FLOWS", value: func(m *vrouterv1.ServiceMember) string {
		answer := "no"
		if m.GetTakesFlows() {
			answer = "yes"
		}
		if m.GetReason() != "" {
			answer += ": " + m.GetReason()
		}
		return answer
	}},
}

func (a *app) printPolicies(j *vrouterv1.ServiceJourney) {
	fmt.Fprintln(a.out, "\npolicies")
	for _, p := range j.GetNetworkPolicies() {
		fmt.Fprintf(a.out, "  NetworkPolicy %s: %s\n", p.GetName(), unknown(strings.Join(eachText(p.GetRules(), networkRule), "; ")))
	}
	for _, p := range j.GetSecurityPolicies() {
		does := "isolates"
		if p.GetTier() != vrouterv1.SecurityPolicy_NAMESPACE {
			does = fmt.Sprintf("tier %s, priority %d, decides", enumName(p.GetTier()), p.GetPriority())
		}
		fmt.Fprintf(a.out, "  SecurityPolicy %s: %s %s of %s\n", p.GetName(), does,
			strings.ToLower(list(p.GetDirections(), vrouterv1.SecurityPolicy_PolicyType.String)), strings.Join(p.GetVirtualMachineInterfaces(), ","))
	}
	if len(j.GetNetworkPolicies())+len(j.GetSecurityPolicies()) == 0 {
		fmt.Fprintln(a.out, "  none")
	}
}

func eachText[T any](items []T, text func(T) string) []string {
	var texts []string
	for _, item := range items {
		texts = append(texts, text(item))
	}
	return texts
}

// printSample tells one packet: the steps, and the verdict in one line.
func (a *app) printSample(s *vrouterv1.ServiceSample) error {
	r := s.GetJourney()
	fmt.Fprintf(a.out, "\nsample for listener %s: %s sends %s\n", s.GetListener(), s.GetVirtualMachineInterface(), tuple(r.GetPacket()))
	if err := a.printSteps(r); err != nil {
		return err
	}
	verdict := a.paint(green, enumName(r.GetVerdict())) + " (" + r.GetReason() + ")"
	if r.GetVerdict() == vrouterv1.Verdict_DROP {
		verdict = a.paint(red, "DROP") + " " + r.GetReason()
	}
	if r.GetRewritten() != nil && r.GetVerdict() == vrouterv1.Verdict_FORWARD {
		verdict += ", leaves as " + tuple(r.GetRewritten())
	}
	if r.GetReply() != "" {
		verdict += ", answered by " + r.GetReply()
	}
	_, err := fmt.Fprintf(a.out, "  verdict: %s\n", verdict)
	return err
}

func (a *app) printProblems(problems []*vrouterv1.ServiceProblem) {
	if len(problems) == 0 {
		fmt.Fprintln(a.out, "\nproblems: none found")
		return
	}
	fmt.Fprintln(a.out, "\nproblems")
	for _, p := range problems {
		fmt.Fprintf(a.out, "  %s: %s\n", a.paint(yellow, p.GetSubject()), p.GetDescription())
		if p.GetRemedy() != "" {
			fmt.Fprintf(a.out, "    try: %s\n", p.GetRemedy())
		}
	}
}

// indented writes what a function writes, two blanks further right and without blanks at the ends of lines.
func (a *app) indented(write func(*bytes.Buffer) error) error {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(a.out, "  "+strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}
