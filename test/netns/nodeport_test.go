package netns_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestNodePortOurs: a floating IP in the fabric network reaches the pods at
// nodeIP:31050, the client's address kept, with no kernel rules for it, and the
// node's own processes as well; what it does not map stays the node's own.
func TestNodePortOurs(t *testing.T) {
	t.Parallel()
	h := newHost(t, options{})
	h.apply(`
kind: FloatingIP
name: nodeport
spec:
  address: 192.0.2.10
  virtualNetwork: ip-fabric
  floatingIpPortMappings: {portMappings: [{srcPort: 31050, dstPort: 8080, protocol: TCP}]}
  virtualMachineInterfaces: [web-1, web-2, web-3]
---
kind: FloatingIP
name: nodeport-v6
spec:
  address: "2001:db8:10::10"
  virtualNetwork: ip-fabric
  floatingIpPortMappings: {portMappings: [{srcPort: 31050, dstPort: 8080, protocol: TCP}]}
  virtualMachineInterfaces: [web-1, web-2, web-3]
`)
	if tables := h.run("node", "nft", "list", "tables"); strings.TrimSpace(tables) != "table inet vrouter-nodeport" {
		t.Fatalf("the node has more rules than those for its own processes:\n%s", tables)
	}
	h.serveWeb("node", 8000)
	eachFamily(t, func(t *testing.T, a addresses) {
		for role, address := range map[string]string{"client": a.client, "node": a.node} {
			servers := map[string]bool{}
			for range 30 {
				server, seen := h.get(t, role, at(a.node, 31050))
				if seen != address {
					t.Fatalf("%s saw %s; want %s", server, seen, address)
				}
				servers[server] = true
			}
			if len(servers) != 3 {
				t.Errorf("only %v answered %s", servers, role)
			}
		}
		if server, _ := h.get(t, "client", at(a.node, 8000)); server != "node" {
			t.Errorf("the node's own port was answered by %s", server)
		}
	})
}

// kubeProxy is what kube-proxy programs for a NodePort Service with two
// endpoints, in the words of nftables: the same chains, mark and order.
const kubeProxy = `
table inet kube {
	chain KUBE-MARK-MASQ { meta mark set meta mark or 0x4000; }
	chain KUBE-SEP-1 {
		ip saddr 10.244.0.11 jump KUBE-MARK-MASQ
		meta nfproto ipv4 meta l4proto tcp dnat ip to 10.244.0.11:8080
		meta nfproto ipv6 meta l4proto tcp dnat ip6 to [fd00:244::11]:8080
	}
	chain KUBE-SEP-2 {
		meta nfproto ipv4 meta l4proto tcp dnat ip to 10.244.0.12:8080
		meta nfproto ipv6 meta l4proto tcp dnat ip6 to [fd00:244::12]:8080
	}
	chain KUBE-SVC-WEB {
		numgen random mod 2 0 jump KUBE-SEP-1
		jump KUBE-SEP-2
	}
	chain KUBE-NODEPORTS {
		tcp dport 31050 jump KUBE-MARK-MASQ
		tcp dport 31050 jump KUBE-SVC-WEB
	}
	chain KUBE-SERVICES { fib daddr type local counter jump KUBE-NODEPORTS; }
	chain prerouting { type nat hook prerouting priority dstnat; jump KUBE-SERVICES; }
	chain output { type nat hook output priority -100; jump KUBE-SERVICES; }
	chain postrouting {
		type nat hook postrouting priority srcnat
		meta mark and 0x4000 == 0x4000 counter masquerade
	}
}
`

// iptablesRules are the same as kube-proxy's iptables mode writes them.
const iptablesRules = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-WEB - [0:0]
:KUBE-SEP-1 - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d %[1]s -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp --dport 31050 -j KUBE-MARK-MASQ
-A KUBE-NODEPORTS -p tcp --dport 31050 -j KUBE-SVC-WEB
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SVC-WEB -j KUBE-SEP-1
-A KUBE-SEP-1 -s %[2]s -j KUBE-MARK-MASQ
-A KUBE-SEP-1 -p tcp -j DNAT --to-destination %[3]s
-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
COMMIT
`

// TestNodePortKernel is the journey of the seed: the kernel's rules in the node's
// namespace send nodeIP:31050 to a pod, through vhost0 and the fabric policy, for a
// client outside and for the node itself.
func TestNodePortKernel(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	h := newHost(t, options{})
	h.forwardOnNode()
	h.run("node", "nft", "-f", h.write("kube.nft", kubeProxy))
	eachFamily(t, func(t *testing.T, a addresses) {
		for _, role := range []string{"client", "node"} {
			servers := map[string]bool{}
			for range 20 {
				server, seen := h.get(t, role, at(a.node, 31050))
				if seen != a.node {
					t.Fatalf("%s saw %s; want the node's %s (masquerade)", server, seen, a.node)
				}
				servers[server] = true
			}
			if !servers["web-1"] || !servers["web-2"] || servers["web-3"] {
				t.Errorf("%s reached %v; want web-1 and web-2", role, servers)
			}
		}
	})
	if out := h.run("node", "nft", "list", "chain", "inet", "kube", "postrouting"); strings.Contains(out, "packets 0") {
		t.Errorf("nothing was masqueraded:\n%s", out)
	}
}

// TestNodePortIptables is the same with the rules of kube-proxy's iptables mode.
func TestNodePortIptables(t *testing.T) {
	t.Parallel()
	need(t, "iptables-nft-restore", "ip6tables-nft-restore")
	h := newHost(t, options{})
	h.forwardOnNode()
	for _, a := range families {
		program := map[string]string{"v4": "iptables-nft-restore", "v6": "ip6tables-nft-restore"}[a.family]
		rules := h.write("rules-"+a.family, fmt.Sprintf(iptablesRules, a.node, a.web[0], at(a.web[0], webPort)))
		if out, err := h.try("node", "sh", "-c", program+" <"+rules); err != nil {
			t.Skipf("SKIP-TOOL: %s does not work on this kernel: %s", program, out)
		}
	}
	eachFamily(t, func(t *testing.T, a addresses) {
		for _, role := range []string{"client", "node"} {
			if server, seen := h.get(t, role, at(a.node, 31050)); server != "web-1" || seen != a.node {
				t.Errorf("%s: %s answered and saw %s", role, server, seen)
			}
		}
	})
}

// forwardOnNode makes the node's kernel a router, as kube-proxy asks for.
func (h *host) forwardOnNode() {
	h.t.Helper()
	h.run("node", "sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
}
