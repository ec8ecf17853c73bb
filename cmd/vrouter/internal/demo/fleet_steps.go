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

// The host outside, on the wire of the nodes.
const (
	outsideAddress  = "192.0.2.100"
	outsideAddress6 = "2001:db8:10::100"
)

// runNodes shows several nodes.
func (d *demo) runNodes(ctx context.Context, dir string) error {
	d.say("vrouter demo: %d nodes on one wire, a web server and a client on each, a daemon on each, on this host only\n", d.Nodes)
	f, err := newFleet(d.Nodes, dir)
	if err != nil {
		return err
	}
	first := step[*fleet]{
		fmt.Sprintf("build: %d nodes with daemon, uplink and vhost0, %d pods, one service with a member on each node", d.Nodes, 2*d.Nodes), buildFleet,
	}
	err = show(ctx, d, f, first, fleetSteps)
	if d.Keep && ctx.Err() == nil {
		first := f.nodes[0]
		d.keep(ctx, fmt.Sprintf("  vrctl --address %[1]s status\n"+
			"  vrctl --address %[1]s flow list\n"+
			"  vrctl --address %[1]s explain --vmi client-1 --dst 10.96.0.10 --proto tcp --dport 80\n"+
			"  ip netns exec %[2]s curl -s 10.96.0.10\n"+
			"  ip netns exec %[3]s tcpdump -ni eth0 udp port 6635\n", first.socket, f.namespaceOf("client-1"), first.namespace))
	}
	return errors.Join(err, f.close())
}

// fleetSteps are what the demo shows of several nodes, in order.
var fleetSteps = []step[*fleet]{
	{"pod to pod, each node to each other, IPv4 and IPv6, MPLS over UDP", podToPod},
	{"one service: 60 connections to " + serviceWeb + " from each node, client address kept", fleetSpread},
	{"bulk TCP to another node for 2 s, every byte checked", fleetBulk},
	{"tunnels change under a transfer: VXLAN, MPLS over GRE, MPLS over UDP", changeTunnels},
	{"nodes' own addresses: from outside by the uplink; nodes to pods by vhost0", ownAddresses},
	{"the journey of a packet to another node, by the production slow path", fleetExplain},
	{"a node dies (kill -9, link down): others' connections go on; it is taken out, and comes back", nodeDies},
	{"every packet accounted for, on each node", fleetAccount},
}

// web returns a node's web server, client its client.
func (m *member) web() workload    { return m.Pods[0] }
func (m *member) client() workload { return m.Pods[1] }

// from is a pod as the origin of connections.
func from(w workload) host { return host{w.Netns} }

func buildFleet(ctx context.Context, f *fleet) (string, []string, error) {
	for _, m := range f.nodes {
		if err := f.start(m); err != nil {
			return "", nil, err
		}
	}
	for _, m := range f.nodes {
		if err := m.answers(ctx); err != nil {
			return "", nil, err
		}
	}
	n, err := f.sync(ctx)
	if err != nil {
		return "", nil, err
	}
	if err := f.ready(ctx); err != nil {
		return "", nil, err
	}
	for _, m := range f.nodes {
		for _, at := range [][2]string{{m.web().Netns, m.web().Name}, {m.namespace, m.Name}} {
			b, err := startBackend(at[0], at[1])
			if err != nil {
				return "", nil, err
			}
			f.backends = append(f.backends, b)
		}
	}
	return fmt.Sprintf("%d resources applied over gRPC", n), nil, nil
}

func podToPod(ctx context.Context, f *fleet) (string, []string, error) {
	pairs := 0
	for _, a := range f.nodes {
		for _, b := range f.Others(a) {
			for _, c := range []struct{ to, from string }{
				{fmt.Sprintf("%s:%d", b.web().V4, webPort), a.client().V4}, {fmt.Sprintf("[%s]:%d", b.web().V6, webPort), a.client().V6},
			} {
				server, saw, err := from(a.client()).get(ctx, c.to)
				if err != nil {
					return "", nil, err
				}
				if server != b.web().Name || saw != c.from {
					return "", nil, fmt.Errorf("%s answered for %s and saw %s, want %s", server, c.to, saw, c.from)
				}
				pairs++
			}
		}
	}
	return fmt.Sprintf("%d connections, each saw the client's own address", pairs), nil, nil
}

func fleetSpread(ctx context.Context, f *fleet) (string, []string, error) {
	counts := map[string]int{}
	for _, m := range f.nodes {
		for range 60 {
			server, saw, err := from(m.client()).get(ctx, serviceWeb)
			if err != nil {
				return "", nil, err
			}
			if saw != m.client().V4 {
				return "", nil, fmt.Errorf("%s saw the client as %s, want %s", server, saw, m.client().V4)
			}
			counts[server]++
		}
	}
	if len(counts) != len(f.nodes) {
		return "", nil, fmt.Errorf("only %v answered", counts)
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", "), nil, nil
}

func fleetBulk(ctx context.Context, f *fleet) (string, []string, error) {
	start := time.Now()
	target := f.nodes[1].web()
	u, err := from(f.nodes[0].client()).send(ctx, fmt.Sprintf("%s:%d", target.V4, bulkPort), func(int64) bool { return time.Since(start) > 2*time.Second })
	if err != nil {
		return "", nil, err
	}
	server, err := u.finish()
	if err != nil {
		return "", nil, err
	}
	rate := float64(u.bytes) * 8 / time.Since(start).Seconds() / 1e9
	return fmt.Sprintf("%.1f Gb/s to %s on %s, %d MB", rate, server, f.nodes[1].Name, u.bytes>>20), nil, nil
}

// changeTunnels changes the fabric's encapsulation under a transfer to another node.
func changeTunnels(ctx context.Context, f *fleet) (string, []string, error) {
	start, changes := time.Now(), []string{"VXLAN", "MPLS_GRE", "MPLS_UDP"}
	var changeErr error
	target := f.nodes[1].web()
	u, err := from(f.nodes[0].client()).send(ctx, fmt.Sprintf("%s:%d", target.V4, bulkPort), func(sent int64) bool {
		if len(changes) > 0 && sent > int64(4-len(changes))<<23 {
			f.Encapsulation, changes = changes[0], changes[1:]
			_, changeErr = f.sync(ctx)
		}
		return changeErr != nil || len(changes) == 0 && time.Since(start) > time.Second
	})
	if err = errors.Join(err, changeErr); err != nil {
		return "", nil, err
	}
	server, err := u.finish()
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("%s has all %d MB", server, u.bytes>>20), nil, nil
}

func ownAddresses(ctx context.Context, f *fleet) (string, []string, error) {
	outside := host{f.namespaceOf("outside")}
	for _, m := range f.nodes {
		for _, c := range []struct{ to, from string }{{m.V4, outsideAddress}, {"[" + m.V6 + "]", outsideAddress6}} {
			server, saw, err := outside.get(ctx, fmt.Sprintf("%s:%d", c.to, webPort))
			if err != nil {
				return "", nil, err
			}
			if server != m.Name || saw != c.from {
				return "", nil, fmt.Errorf("%s answered for %s and saw %s, want %s", server, m.Name, saw, c.from)
			}
		}
		for _, other := range f.nodes {
			server, saw, err := host{m.namespace}.get(ctx, fmt.Sprintf("%s:%d", other.web().V4, webPort))
			if err != nil {
				return "", nil, err
			}
			if server != other.web().Name || saw != m.V4 {
				return "", nil, fmt.Errorf("%s answered %s and saw %s, want %s", server, m.Name, saw, m.V4)
			}
		}
	}
	return fmt.Sprintf("%d nodes from outside, %d ways from node to pod", len(f.nodes), len(f.nodes)*len(f.nodes)), nil, nil
}

func fleetExplain(ctx context.Context, f *fleet) (string, []string, error) {
	answer, err := f.nodes[0].journey(ctx, f.nodes[1])
	if err != nil {
		return "", nil, err
	}
	if answer.GetVerdict() != pb.Verdict_FORWARD {
		return "", nil, fmt.Errorf("verdict %s, reason %s", answer.GetVerdict(), answer.GetReason())
	}
	var detail []string
	for _, s := range answer.GetSteps() {
		detail = append(detail, strings.TrimRight(fmt.Sprintf("%-16s %s  %s", s.GetStage(), s.GetResult(), s.GetDetail()), " "))
	}
	if !strings.Contains(strings.Join(detail, "\n"), f.nodes[1].Name) {
		return "", detail, fmt.Errorf("the journey does not name %s", f.nodes[1].Name)
	}
	return fmt.Sprintf("%s out of %s", answer.GetVerdict(), answer.GetOutput()), detail, nil
}

// nodeDies kills the last node under connections to the service.
func nodeDies(ctx context.Context, f *fleet) (string, []string, error) {
	victim, client := f.nodes[len(f.nodes)-1], from(f.nodes[0].client())
	open := map[string]*upload{} // one connection to each member
	for tries := 0; len(open) < len(f.nodes) && tries < 200; tries++ {
		u, err := client.send(ctx, serviceBulk, func(sent int64) bool { return sent > 0 })
		if err != nil {
			return "", nil, err
		}
		name, err := f.nodes[0].world.memberOf(ctx, 5201)
		if err != nil {
			return "", nil, err
		}
		if old := open[name]; old != nil {
			u.conn.Close()
			continue
		}
		open[name] = u
	}
	if len(open) != len(f.nodes) {
		return "", nil, fmt.Errorf("200 connections and only %d members", len(open))
	}
	if err := errors.Join(victim.stop(syscall.SIGKILL), setPort(f.namespaceOf("wire"), victim.Name, false)); err != nil {
		return "", nil, err
	}
	for name, u := range open {
		if name == victim.web().Name {
			u.conn.Close()
			continue
		}
		if server, err := u.finish(); err != nil || server != name {
			return "", nil, errors.Join(err, fmt.Errorf("the connection to %s did not go on", name))
		}
	}
	victim.dead = true
	if _, err := f.sync(ctx); err != nil {
		return "", nil, err
	}
	for range 40 {
		if _, _, err := client.get(ctx, serviceWeb); err != nil {
			return "", nil, fmt.Errorf("after it was taken out: %w", err)
		}
	}
	if err := f.revive(ctx, victim); err != nil {
		return "", nil, fmt.Errorf("it does not come back: %w", err)
	}
	back, err := eventually(ctx, func() (bool, error) {
		server, _, err := client.get(ctx, serviceWeb)
		return server == victim.web().Name, err
	})
	if err != nil || !back {
		return "", nil, errors.Join(err, fmt.Errorf("%s does not serve again", victim.web().Name))
	}
	return fmt.Sprintf("%d connections to other nodes went on; 40 new ones found live members; then %s served again", len(open)-1, victim.web().Name), nil, nil
}

// revive brings a dead node back: its cable, its daemon, and it into the state of all.
func (f *fleet) revive(ctx context.Context, m *member) error {
	if err := setPort(f.namespaceOf("wire"), m.Name, true); err != nil {
		return err
	}
	if err := f.start(m); err != nil {
		return err
	}
	if err := m.answers(ctx); err != nil {
		return err
	}
	m.dead = false
	if _, err := f.sync(ctx); err != nil {
		return err
	}
	return f.ready(ctx)
}

func fleetAccount(ctx context.Context, f *fleet) (string, []string, error) {
	var detail []string
	for _, m := range f.Live() {
		found, _, err := account(ctx, m.world)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		detail = append(detail, m.Name+"  "+found)
	}
	return "rx + generated = tx + coalesced + drops + held", detail, nil
}
