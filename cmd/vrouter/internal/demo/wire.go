package demo

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// bridgeName is the wire's bridge in its namespace.
const bridgeName = "br0"

// makeBridge makes the bridge that stands for the network between nodes.
func makeBridge(wire string) error {
	return netns.Do(wire, func() error {
		snooping := false // nobody asks for multicast here, and neighbour discovery needs it
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}, MulticastSnooping: &snooping}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make bridge %s: %w", bridgeName, err)
		}
		return netlink.LinkSetUp(bridge)
	})
}

// plug joins a namespace to the bridge: eth0 there, port in the wire's namespace.
// Addresses serve at once, without duplicate address detection.
func plug(wire, port, namespace string, addresses ...string) error {
	target, err := netns.Open(namespace)
	if err != nil {
		return err
	}
	defer target.Close()
	err = netns.Do(wire, func() error {
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index},
			PeerName:  "eth0", PeerNamespace: netlink.NsFd(target),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("plug %s into the wire: %w", namespace, err)
		}
		return netlink.LinkSetUp(veth)
	})
	if err != nil {
		return err
	}
	return netns.Do(namespace, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(eth0); err != nil {
			return err
		}
		for _, a := range addresses {
			address, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			address.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(eth0, address); err != nil {
				return fmt.Errorf("%s: address %s: %w", namespace, a, err)
			}
		}
		return nil
	})
}

// setPort takes a port of the wire up or down, as when somebody pulls the cable.
func setPort(wire, port string, up bool) error {
	return netns.Do(wire, func() error {
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
}
