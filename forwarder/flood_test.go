package forwarder

import (
	"bytes"
	"fmt"
	"testing"
	"unsafe"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/internal/policy"
)

// groupFrames are what workloads send to all.
func groupFrames(t testing.TB, from uint16, fromMAC [6]byte, v4, v6 string) map[string][]byte {
	to := func(dst string, b []byte) []byte {
		if dst == "255.255.255.255" || dst == "10.244.0.255" {
			return framed(fromMAC, broadcast, b)
		}
		return framed(fromMAC, header.MulticastMAC(addr(dst)), b)
	}
	m := map[string][]byte{}
	for name, c := range map[string][2]string{
		"multicast": {v4, "239.1.2.3"}, "mDNS": {v4, "224.0.0.251"}, "broadcast": {v4, "255.255.255.255"}, "subnet broadcast": {v4, "10.244.0.255"},
		"multicast6": {v6, "ff05::1:3"}, "link-local6": {"fe80::1:2:3", "ff02::fb"},
	} {
		spec := udpTo(from, c[0], c[1], 5353, 5353, "hello, all")
		spec.ttl = 1
		m[name] = to(c[1], build(t, spec))
	}
	return m
}

// RFC 7432 §11: everybody on the segment gets a flooded frame once, whatever node it is on, nobody else does
// and it does not come back.
func TestFloods(t *testing.T) {
	for _, underlay := range []int{4, 6} {
		p := newSegment(t, underlay)
		for name, q := range groupFrames(t, web1Port, mac(byte(web1Port)), "10.244.0.11", "fd00:244::11") {
			t.Run(fmt.Sprint(name, underlay), func(t *testing.T) {
				p.t = t
				p.nodes[0].inject(web1Port, bytes.Clone(q))
				p.run()
				if len(p.outer[0]) != 1 || len(p.outer[1]) != 0 {
					t.Errorf("%d and %d between the nodes", len(p.outer[0]), len(p.outer[1]))
				}
				p.reached(q, int(alias1Port), int(alias2Port), 100+int(web2Port), 100+int(web3Port), 100+int(alias1Port), 100+int(alias2Port))
			})
		}
		for name, q := range groupFrames(t, clientPort, mac(byte(clientPort)), "203.0.113.7", "2001:db8:113::7") { // whose network does not bridge
			p.nodes[0].inject(clientPort, q)
			p.run()
			if got := p.got(); len(got) != 0 {
				t.Errorf("%s of another network reached %v", name, got)
			}
		}
		if n := p.nodes[0].sessions(); n != 0 {
			t.Errorf("%d sessions", n)
		}
	}
}

// What may not be flooded.
func TestNotFlooded(t *testing.T) {
	p := newSegment(t, 4)
	r := p.nodes[0]
	m := mac(byte(web1Port))
	send := func(src, dst string, to [6]byte) []byte {
		return framed(m, to, build(t, udpTo(web1Port, src, dst, 1, 2, "x")))
	}
	partial := send("10.244.0.11", "239.1.1.1", header.MulticastMAC(addr("239.1.1.1")))
	for reason, frame := range map[DropReason][]byte{
		DropSourceSpoof:        send("10.244.0.12", "239.1.1.1", header.MulticastMAC(addr("239.1.1.1"))),
		DropSourceMACSpoof:     framed(strangeMAC, broadcast, bytes.Clone(partial)),
		DropMartianSource:      send("0.0.0.0", "255.255.255.255", broadcast),
		DropBroadcast:          send("10.244.0.11", "10.244.0.12", broadcast),
		DropMulticast:          send("10.244.0.11", "239.1.1.1", mac(byte(web2Port))),
		DropMartianDestination: send("fd00:244::11", "ff01::1", header.MulticastMAC(addr("ff01::1"))),
		DropEtherType:          append(append(append([]byte{}, broadcast[:]...), m[:]...), 0x88, 0xcc, 1, 2, 3),
	} {
		r.inject(web1Port, frame)
		p.run()
		if r.drops(web1Port, reason) != 1 {
			t.Errorf("want %v, drops %s", reason, p.drops())
		}
	}
	p.nothing()
}

// A storm costs a bounded number of copies, and time lets others through again.
func TestFloodLimit(t *testing.T) {
	p := newSegment(t, 4)
	r := p.nodes[0]
	q := groupFrames(t, web1Port, mac(byte(web1Port)), "10.244.0.11", "fd00:244::11")["multicast"]
	const copies = 3 // two here, one to the other node
	storm := func() (passed int) {
		for range 2 * floodBurst / copies / 100 {
			for range 100 {
				r.inject(web1Port, q)
			}
			r.run()
			passed += len(r.sentFrames(alias1Port))
			r.sentFrames(alias2Port)
			r.sentFrames(uplinkPort)
		}
		return passed
	}
	if n := storm(); n != floodBurst/copies {
		t.Errorf("%d passed at once", n)
	}
	if r.drops(web1Port, DropFloodLimit) == 0 {
		t.Errorf("drops %s", p.drops())
	}
	other := framed(aliasMAC(0, alias1Port), header.MulticastMAC(addr("239.1.2.3")), build(t, udpTo(alias1Port, "10.244.0.70", "239.1.2.3", 1, 2, "x")))
	r.inject(alias1Port, bytes.Clone(other))
	p.run()
	p.reached(other, int(web1Port), int(alias2Port), 100+int(web2Port), 100+int(web3Port), 100+int(alias1Port), 100+int(alias2Port))
	r.nanos += TickNanos
	if n := storm(); n != (floodRate+floodBurst%copies)/copies {
		t.Errorf("%d passed a tick later", n)
	}
	if n := unsafe.Sizeof(floodLimit{}); n != 8 {
		t.Errorf("floodLimit is %d bytes", n)
	}
	if n := unsafe.Sizeof(arrival{}); n != 28 {
		t.Errorf("arrival is %d bytes", n)
	}
}

// SecurityPolicy: who is closed for ingress gets no floods but questions for
// addresses, who is closed for egress sends none.
func TestFloodsAndIsolation(t *testing.T) {
	p := newSegment(t, 4)
	p.both(func(s *state) {
		s.security = []policy.SecurityPolicy{
			{Subjects: []uint32{policy.FirstIdentity + uint32(alias1Port)}, Ingress: true},
			{Subjects: []uint32{policy.FirstIdentity + uint32(alias2Port)}, Egress: true},
		}
	})
	q := groupFrames(t, web1Port, mac(byte(web1Port)), "10.244.0.11", "fd00:244::11")["multicast"]
	p.nodes[0].inject(web1Port, bytes.Clone(q))
	p.run()
	p.reached(q, int(alias2Port), 100+int(web2Port), 100+int(web3Port), 100+int(alias2Port))
	q = groupFrames(t, alias2Port, aliasMAC(0, alias2Port), "10.244.0.80", "fd00:244::80")["multicast"]
	p.nodes[0].inject(alias2Port, q)
	p.run()
	if p.nothing(); p.nodes[0].drops(alias2Port, DropFloodIsolated) != 1 {
		t.Errorf("drops %s", p.drops())
	}
	ask := arpFrame(t, arpSpec{from: web1Port, op: layers.ARPRequest, sender: "10.244.0.11", target: "10.244.0.200"})
	p.nodes[0].inject(web1Port, bytes.Clone(ask))
	p.run()
	p.reached(ask, int(alias1Port), int(alias2Port), 100+int(web2Port), 100+int(web3Port), 100+int(alias1Port), 100+int(alias2Port))
}
