package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// kernelServices is what kube-proxy's nftables mode makes of a service: a verdict
// map from address, protocol and port, a choice of endpoint, DNAT.
const kernelServices = `
table ip services {
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = {
            10.96.0.10 . tcp . 80 : goto web-http,
            10.96.0.10 . udp . 9000 : goto web-udp,
            10.96.0.10 . tcp . 9002 : goto web-ask,
            10.96.0.11 . tcp . 5201 : goto bulk,
        }
    }
    chain web-http {
        numgen random mod 2 vmap { 0 : goto http-1, 1 : goto http-2 }
    }
    chain web-udp {
        numgen random mod 2 vmap { 0 : goto udp-1, 1 : goto udp-2 }
    }
    chain web-ask {
        numgen random mod 2 vmap { 0 : goto ask-1, 1 : goto ask-2 }
    }
    chain bulk {
        jhash ip saddr mod 2 vmap { 0 : goto bulk-1, 1 : goto bulk-2 }
    }
    chain http-1 {
        meta l4proto tcp dnat to 10.244.0.11:8080
    }
    chain http-2 {
        meta l4proto tcp dnat to 10.244.0.12:8080
    }
    chain udp-1 {
        meta l4proto udp dnat to 10.244.0.11:9001
    }
    chain udp-2 {
        meta l4proto udp dnat to 10.244.0.12:9001
    }
    chain ask-1 {
        meta l4proto tcp dnat to 10.244.0.11:9002
    }
    chain ask-2 {
        meta l4proto tcp dnat to 10.244.0.12:9002
    }
    chain bulk-1 {
        meta l4proto tcp dnat to 10.244.0.11:5201
    }
    chain bulk-2 {
        meta l4proto tcp dnat to 10.244.0.12:5201
    }
    chain prerouting {
        type nat hook prerouting priority dstnat
        ip daddr . meta l4proto . th dport vmap @service-ips
    }
}
`

// kernelPolicy lets established flows pass first, as every firewall does, and new
// ones to the servers.
const kernelPolicy = `
table ip firewall {
    chain forward {
        type filter hook forward priority filter
        policy drop
        ct state established,related accept
        ct state invalid drop
        ip saddr 203.0.113.0/24 ip daddr 10.244.0.0/24 meta l4proto { tcp, udp } th dport { 8080, 5201, 9001, 9002 } accept
    }
}
`

// Kernel starts the kernel's own way: veth pairs to a router that balances by
// nftables and connection tracking.
func Kernel(ctx context.Context, s Setup) (*Peer, error) {
	p, err := newPeer("kernel", s, len(serverAddress))
	if err != nil {
		return nil, err
	}
	if err := p.startKernel(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Peer) startKernel(ctx context.Context) error {
	if err := p.wireGuests(); err != nil {
		return err
	}
	if err := rules(p.node, kernelServices+kernelPolicy); err != nil {
		return err
	}
	return p.serve(ctx)
}

// wireGuests joins the client and the servers with their nodes.
func (p *Peer) wireGuests() error {
	if err := p.wire(p.node, "c0", "203.0.113.1/24", p.client, clientAddress); err != nil {
		return err
	}
	for i, a := range serverAddress {
		if err := p.wire(p.far, fmt.Sprintf("s%d", i), "10.244.0.1/32", p.servers[i], a); err != nil {
			return err
		}
		if err := run(p.far, "ip", "route", "add", a.String(), "dev", fmt.Sprintf("s%d", i)); err != nil {
			return err
		}
	}
	return nil
}

// rules hands a node its nftables rules.
func rules(node, text string) error {
	if out, err := output(node, text, "nft", "-f", "-"); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(out))
	}
	return nil
}

// wire makes a veth pair from a node, with its address there, to a guest, whose
// gateway that is.
func (p *Peer) wire(node, device, gateway, guest string, address netip.Addr) error {
	gw := netip.MustParsePrefix(gateway).Addr().String()
	for _, line := range []string{
		fmt.Sprintf("ip link add %s mtu %d type veth peer name eth0 mtu %d netns %s", device, p.mtu, p.mtu, netns.Path(guest)),
		"ip addr add " + gateway + " dev " + device,
		"ip link set " + device + " up",
	} {
		if err := run(node, strings.Fields(line)...); err != nil {
			return err
		}
	}
	for _, line := range []string{
		"ip addr add " + address.String() + "/24 dev eth0",
		"ip link set eth0 up",
		"ip route add default via " + gw,
	} {
		if err := run(guest, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}
