//go:build linux

package cluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// ns returns the name of the network namespace of a role.
func (c *Cluster) ns(role string) string { return netns.Name(c.o.Prefix, c.o.Name+"-"+role) }

// space makes the network namespace of a role, to be deleted by Close.
func (c *Cluster) space(role string) error {
	if _, err := netns.Create(c.ns(role)); err != nil {
		return err
	}
	c.closers = append(c.closers, func() error { return netns.Delete(c.ns(role)) })
	// A link-local address that is on trial sends no neighbour solicitations, and global
	// addresses are to serve at once. Refusals must not be mistaken for drops, so they are
	// not limited in rate.
	return c.run(role, `sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 \
		net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=100000 net.ipv6.icmp.ratelimit=0`)
}

// run runs commands in a role's namespace.
func (c *Cluster) run(role, script string) error {
	out, err := exec.Command("ip", "netns", "exec", c.ns(role), "sh", "-ec", script).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s\n%s", role, err, script, out)
	}
	return nil
}

// wire makes the bridge and what stands on it besides nodes.
func (c *Cluster) wire() error {
	for _, role := range []string{"wire", "control", "outside"} {
		if err := c.space(role); err != nil {
			return err
		}
	}
	if err := c.run("wire", "ip link add br0 type bridge mcast_snooping 0; ip link set br0 up"); err != nil {
		return err
	}
	return errors.Join(
		c.plug("control", controlV4, netip.MustParseAddr("2001:db8:10::1")),
		c.plug("outside", outsideV4, outsideV6))
}

// plug joins a namespace to the bridge, as its eth0.
func (c *Cluster) plug(role string, v4, v6 netip.Addr) error {
	port := strings.ReplaceAll(role, "-", "")
	if err := c.run("wire", fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s; ip link set %[1]s master br0 up", port, c.ns(role))); err != nil {
		return err
	}
	return c.run(role, fmt.Sprintf("ip link set eth0 up; ip addr add %v/24 dev eth0; ip -6 addr add %v/64 dev eth0 nodad", v4, v6))
}

// steer sends what outside sends to service addresses to a node, as a router does that has
// learnt them from it.
func (c *Cluster) steer(n *Node) error {
	var script strings.Builder
	for _, prefix := range append(strings.Split(Services, ","), LoadBalancersV4, LoadBalancersV6, ExternalsV4, ExternalsV6) {
		via := n.Addresses[0]
		if strings.Contains(prefix, ":") {
			via = n.Addresses[1]
		}
		fmt.Fprintf(&script, "ip route replace %s via %v\n", prefix, via)
	}
	return c.run("outside", script.String())
}
