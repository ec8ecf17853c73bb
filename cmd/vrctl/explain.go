package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// explainFlags describe the packet.
type explainFlags struct {
	vmi, src, dst, proto string
	mac                  string
	sport, dport         uint16
	from, port           string // of a service
}

func (a *app) explainCommand() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain svc/NAMESPACE/NAME | --vmi VMI --dst ADDR [--proto tcp --dport N] [--src ADDR --sport N]",
		Short: "Tell what happens to a packet, or how a service is served, and why",
		Example: `  vrctl explain --vmi web-1 --dst 10.96.0.10 --proto tcp --dport 80
  vrctl explain svc/shop/web                                   # from the service to each of its pods
  vrctl explain svc/shop/web --port http --from shop:client-1  # one port, as this interface sees it
  vrctl explain --vmi web-1 --dst 10.244.0.12                  # an ICMP echo request
  vrctl explain --vmi web-1 --dst 10.244.0.12 --mac 02:00:00:00:01:02   # bridged
  vrctl explain --vmi vhost0 --dst 10.244.0.11 --dport 8080    # from the node itself
  vrctl explain --vmi web-1 --src 10.244.0.11 --sport 40000 --dst 10.96.0.10 --dport 80 -o json`,
		Long: `Sends no packet: the forwarder's own decision is asked, with the live sessions and the present state, and
nothing changes. With --src and --sport of a live session the answer is what becomes of its next packet.

With svc/NAMESPACE/NAME, or the name of a LoadBalancer: the journey from the service to each pod as this node sees it. Its listeners and
pools, its addresses with their floating IPs, each member with its node, its sessions and why it takes no flows, the policies in between,
one sample packet for each port, and what is wrong, in plain words.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError("explain takes one service, not %d", len(args)).try("vrctl explain svc/shop/web")
			}
			return f.consistent(len(args) == 1)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.names(cmd.Context(), "LoadBalancer", serviceArgument), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.explainService(cmd.Context(), args[0], f.from, f.port)
			}
			request, err := f.request()
			if err != nil {
				return err
			}
			agent, err := a.connect()
			if err != nil {
				return err
			}
			response, err := agent.Explain(cmd.Context(), request)
			if err != nil {
				return err
			}
			if a.output == "json" || a.output == "yaml" {
				return a.printMessage(response)
			}
			return a.printJourney(request, response)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.vmi, "vmi", "", "interface that sends; vhost0 is the node itself")
	flags.StringVar(&f.dst, "dst", "", "destination address")
	flags.StringVar(&f.mac, "mac", "", "destination MAC address, in a network that bridges (default the vRouter's own: the packet is routed)")
	flags.StringVar(&f.src, "src", "", "source address (default the interface's own)")
	flags.StringVar(&f.proto, "proto", "", "tcp, udp, sctp or icmp (default tcp with --dport, otherwise icmp)")
	flags.Uint16Var(&f.dport, "dport", 0, "destination port")
	flags.Uint16Var(&f.sport, "sport", 0, "source port, or identifier of an echo request (default an unused one)")
	flags.StringVar(&f.from, "from", "", "of a service: interface that sends the sample packets (default a workload of this node, else vhost0)")
	flags.StringVar(&f.port, "port", "", "of a service: only the port of this name or number")
	complete(cmd, "from", a.completeNames("VirtualMachineInterface", (*vrouterv1.Resource).GetName, statefile.FabricInterface))
	complete(cmd, "vmi", a.completeNames("VirtualMachineInterface", (*vrouterv1.Resource).GetName, statefile.FabricInterface))
	complete(cmd, "dst", a.completeNames("FloatingIP", func(r *vrouterv1.Resource) string { return r.GetFloatingIp().GetAddress() }))
	complete(cmd, "proto", cobra.FixedCompletions([]string{"tcp", "udp", "sctp", "icmp"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// consistent refuses flags of a packet with a service, and the other way round.
func (f explainFlags) consistent(service bool) error {
	packet := explainFlags{from: f.from, port: f.port}
	switch {
	case service && f != packet:
		return usageError("--vmi, --dst and the other flags of a packet do not go with a service").try("vrctl explain svc/shop/web --from web-1 --port http")
	case !service && (f.from != "" || f.port != ""):
		return usageError("--from and --port are for a service").try("vrctl explain svc/shop/web --from web-1 --port http, or --vmi and --dport")
	}
	return nil
}

func (f explainFlags) request() (*vrouterv1.ExplainRequest, error) {
	const example = "vrctl explain --vmi web-1 --dst 10.96.0.10 --proto tcp --dport 80"
	if f.vmi == "" || f.dst == "" {
		return nil, usageError("explain needs --vmi and --dst").try(example)
	}
	if f.proto == "" && f.dport != 0 {
		f.proto = "tcp"
	}
	protocol, err := parseProtocol(f.proto)
	if err != nil {
		return nil, err
	}
	switch protocol {
	case vrouterv1.Protocol_TCP, vrouterv1.Protocol_UDP, vrouterv1.Protocol_SCTP:
		if f.dport == 0 {
			return nil, usageError("--proto %s needs --dport", f.proto).try(example)
		}
	case vrouterv1.Protocol_PROTOCOL_UNSPECIFIED, vrouterv1.Protocol_ICMP, vrouterv1.Protocol_ICMPV6:
		if f.dport != 0 {
			return nil, usageError("ICMP has no ports").try("leave --dport out, or give --proto tcp")
		}
		protocol = vrouterv1.Protocol_ICMP
	default:
		return nil, usageError("explain knows tcp, udp, sctp and icmp, not %q", f.proto).try(example)
	}
	return &vrouterv1.ExplainRequest{VirtualMachineInterface: f.vmi, Source: f.src, Destination: f.dst, Protocol: protocol,
		SourcePort: uint32(f.sport), DestinationPort: uint32(f.dport), DestinationMac: f.mac}, nil
}

// printJourney tells the steps and then the outcome.
func (a *app) printJourney(request *vrouterv1.ExplainRequest, r *vrouterv1.ExplainResponse) error {
	fmt.Fprintf(a.out, "%s sends %s\n\n", request.GetVirtualMachineInterface(), tuple(r.GetPacket()))
	if err := a.printSteps(r); err != nil {
		return err
	}
	a.printVerdict(r)
	return nil
}

// printSteps writes the steps and a blank line.
func (a *app) printSteps(r *vrouterv1.ExplainResponse) error {
	var steps bytes.Buffer
	tab := tabwriter.NewWriter(&steps, 0, 0, 3, ' ', 0)
	for i, step := range r.GetSteps() {
		fmt.Fprintf(tab, "  %d\t%s\t%s\t%s\n", i+1, step.GetStage(), step.GetResult(), step.GetDetail())
	}
	if err := tab.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(steps.String()) {
		fmt.Fprintln(a.out, strings.TrimRight(line, " \n"))
	}
	fmt.Fprintln(a.out)
	return nil
}

// printVerdict writes the outcome, one fact a line, leaving out what does not apply.
func (a *app) printVerdict(r *vrouterv1.ExplainResponse) {
	fact := func(name, value string) {
		if value != "" {
			fmt.Fprintf(a.out, "%-12s %s\n", name, value)
		}
	}
	switch r.GetVerdict() {
	case vrouterv1.Verdict_DROP:
		fact("verdict", a.paint(red, "DROP")+" "+r.GetReason())
	default:
		fact("verdict", a.paint(green, enumName(r.GetVerdict()))+" ("+r.GetReason()+")")
	}
	fact("meaning", r.GetDoc())
	fact("try", r.GetRemedy())
	fact("reply", r.GetReply())
	fact("rule", r.GetRule())
	fact("tier", r.GetTier())
	fact("floating IP", r.GetFloatingIp())
	fact("member", r.GetMember())
	if r.GetRewritten() != nil && r.GetVerdict() == vrouterv1.Verdict_FORWARD {
		fact("leaves as", tuple(r.GetRewritten()))
	}
	fact("output", r.GetOutput())
	if s := r.GetSession(); s != nil {
		fact("session", fmt.Sprintf("%s, age %s, idle %s, %s", s.GetState(), shortDuration(s.GetAge()), shortDuration(s.GetIdle()), counters(s)))
	}
	fact("generation", strconv.FormatUint(r.GetGeneration(), 10))
}

// tuple writes a packet: TCP 10.244.0.11:40000 > 10.96.0.10:80.
func tuple(t *vrouterv1.Tuple) string {
	return fmt.Sprintf("%s %s > %s", protocol(t), source(t), destination(t))
}
