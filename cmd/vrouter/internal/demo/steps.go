package demo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Addresses of the demo's state.
const (
	clientAddress  = "203.0.113.7"
	clientAddress6 = "2001:db8:113::7"
	serviceWeb     = "10.96.0.10:80"
	serviceWeb6    = "[fd00:96::10]:80"
	serviceBulk    = "10.96.0.10:5201"
	serviceClosed  = "10.96.0.10:443"
	nodePort       = "192.0.2.10:31050"
)

// build is the first step.
var build = step[*world]{"build: 5 namespaces, 5 TAP devices, 4 networks, 3 floating IPs, 2 policies", func(ctx context.Context, w *world) (string, []string, error) {
	n, err := w.applyState(ctx)
	if err == nil {
		err = w.serve()
	}
	return fmt.Sprintf("%d resources applied over gRPC", n), nil, err
}}

// steps are what the demo shows of one host, in order.
var steps = []step[*world]{
	{"ECMP spread: 120 connections to " + serviceWeb + " (80→8080), client address kept", spread},
	{"the same over IPv6: 60 connections to " + serviceWeb6, spread6},
	{"bulk TCP through the floating IP for 2 s, every byte checked", bulk},
	{"a port that is not mapped is refused at once", unmapped},
	{"hairpin: web-1 calls its own service", hairpin},
	{"NodePort: the client calls " + nodePort + ", no kernel rules", nodeport},
	{"kubelet-style probe: the node reaches every pod through vhost0", probe},
	{"a policy denies: new connections and a live one stop; then it allows again", denyThenAllow},
	{"a member leaves the service while it receives a transfer", memberLeaves},
	{"the journey of one packet, by the production slow path", explain},
	{"every packet accounted for: rx + generated = tx + coalesced + drops + held", account},
}

func spread(ctx context.Context, w *world) (string, []string, error) {
	return w.spread(ctx, serviceWeb, clientAddress, 120)
}

func spread6(ctx context.Context, w *world) (string, []string, error) {
	return w.spread(ctx, serviceWeb6, clientAddress6, 60)
}

// spread opens n connections and counts who answered.
func (w *world) spread(ctx context.Context, service, client string, n int) (string, []string, error) {
	counts := map[string]int{}
	for range n {
		server, saw, err := w.client.get(ctx, service)
		if err != nil {
			return "", nil, err
		}
		if saw != client {
			return "", nil, fmt.Errorf("%s saw the client as %s, want %s", server, saw, client)
		}
		counts[server]++
	}
	if len(counts) != len(w.backends) {
		return "", nil, fmt.Errorf("only %v answered", counts)
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ") + "; each saw " + client, nil, nil
}

func bulk(ctx context.Context, w *world) (string, []string, error) {
	start := time.Now()
	u, err := w.client.send(ctx, serviceBulk, func(int64) bool { return time.Since(start) > 2*time.Second })
	if err != nil {
		return "", nil, err
	}
	server, err := u.finish()
	if err != nil {
		return "", nil, err
	}
	rate := float64(u.bytes) * 8 / time.Since(start).Seconds() / 1e9
	return fmt.Sprintf("%.1f Gb/s to %s, %d MB", rate, server, u.bytes>>20), nil, nil
}

func unmapped(ctx context.Context, w *world) (string, []string, error) {
	start := time.Now()
	conn, err := w.client.dial(ctx, serviceClosed)
	if err == nil {
		conn.Close()
		return "", nil, errors.New("it was accepted")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return "", nil, err
	}
	n, err := w.drops(ctx, "client-1", "FLOATING_IP_PORT")
	if err != nil {
		return "", nil, err
	}
	if n == 0 {
		return "", nil, errors.New("refused, but not counted as FLOATING_IP_PORT")
	}
	return fmt.Sprintf("connection refused after %s, counted as FLOATING_IP_PORT", time.Since(start).Round(100*time.Microsecond)), nil, nil
}

func hairpin(ctx context.Context, w *world) (string, []string, error) {
	for tries := 1; tries <= 60; tries++ {
		server, saw, err := host{w.namespace("web-1")}.get(ctx, serviceWeb)
		if err != nil {
			return "", nil, err
		}
		if server == "web-1" {
			return fmt.Sprintf("web-1 answered itself at connection %d, seen as the service address %s", tries, saw), nil, nil
		}
	}
	return "", nil, errors.New("60 connections and never itself")
}

func nodeport(ctx context.Context, w *world) (string, []string, error) {
	server, saw, err := w.client.get(ctx, nodePort)
	if err != nil {
		return "", nil, err
	}
	if saw != clientAddress {
		return "", nil, fmt.Errorf("%s saw the client as %s", server, saw)
	}
	return server + " answered, saw " + saw, nil, nil
}

func probe(ctx context.Context, w *world) (string, []string, error) {
	node := host{w.namespace("node")}
	for i, name := range w.names {
		for _, address := range []string{fmt.Sprintf("10.244.0.%d:%d", 11+i, webPort), fmt.Sprintf("[fd00:244::%d]:%d", 11+i, webPort)} {
			server, _, err := node.get(ctx, address)
			if err != nil {
				return "", nil, err
			}
			if server != name {
				return "", nil, fmt.Errorf("%s answered as %s", address, server)
			}
		}
	}
	return "web-1, web-2, web-3 over IPv4 and IPv6", nil, nil
}

// denyThenAllow changes the policy between clients and services under a live
// connection.
func denyThenAllow(ctx context.Context, w *world) (string, []string, error) {
	live, err := w.client.dial(ctx, serviceBulk)
	if err != nil {
		return "", nil, err
	}
	defer live.Close()
	policy, err := w.resource(ctx, "NetworkPolicy", "use-services")
	if err != nil {
		return "", nil, err
	}
	allowed := policy.GetNetworkPolicy().GetRules()
	denied := slices.Clone(allowed)
	denied[0] = cloneRule(denied[0])
	denied[0].Action = pb.NetworkPolicyRule_DENY
	policy.GetNetworkPolicy().Rules = denied
	if err := w.apply(ctx, policy); err != nil {
		return "", nil, err
	}
	if conn, err := w.client.dial(ctx, serviceWeb); err == nil {
		conn.Close()
		return "", nil, errors.New("a new connection opened although the policy denies it")
	}
	before, err := w.drops(ctx, "client-1", "NETWORK_POLICY")
	if err != nil {
		return "", nil, err
	}
	if _, err := live.Write([]byte("is anybody there?")); err != nil {
		return "", nil, err
	}
	stopped, err := eventually(ctx, func() (bool, error) {
		n, err := w.drops(ctx, "client-1", "NETWORK_POLICY")
		return n > before, err
	})
	if err != nil || !stopped {
		return "", nil, errors.Join(err, errors.New("the live connection went on"))
	}
	policy.GetNetworkPolicy().Rules = allowed
	if err := w.apply(ctx, policy); err != nil {
		return "", nil, err
	}
	if _, _, err := w.client.get(ctx, serviceWeb); err != nil {
		return "", nil, fmt.Errorf("after allowing again: %w", err)
	}
	return "denied: timeout, live connection stopped; allowed: works again", nil, nil
}

// memberLeaves removes the member that a transfer runs to from the service.
func memberLeaves(ctx context.Context, w *world) (string, []string, error) {
	fip, err := w.resource(ctx, "FloatingIP", "web")
	if err != nil {
		return "", nil, err
	}
	all := fip.GetFloatingIp().GetVirtualMachineInterfaces()
	var left string
	start := time.Now()
	var applyErr error
	u, err := w.client.send(ctx, serviceBulk, func(sent int64) bool {
		if left == "" && sent > 8<<20 {
			if left, applyErr = w.memberOf(ctx, 5201); applyErr == nil {
				fip.GetFloatingIp().VirtualMachineInterfaces = without(all, left)
				applyErr = w.apply(ctx, fip)
			}
		}
		return applyErr != nil || time.Since(start) > time.Second
	})
	if err = errors.Join(err, applyErr); err != nil {
		return "", nil, err
	}
	server, err := u.finish()
	if err != nil {
		return "", nil, err
	}
	if server != left {
		return "", nil, fmt.Errorf("the transfer began at %s and ended at %s", left, server)
	}
	for range 30 {
		server, _, err := w.client.get(ctx, serviceWeb)
		if err != nil {
			return "", nil, err
		}
		if server == left {
			return "", nil, fmt.Errorf("a new connection went to %s, which has left", left)
		}
	}
	fip.GetFloatingIp().VirtualMachineInterfaces = all
	if err := w.apply(ctx, fip); err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("%s finished its %d MB intact; 30 new connections went elsewhere", left, u.bytes>>20), nil, nil
}

func without(names []string, gone string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == gone })
}
