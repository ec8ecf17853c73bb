package forwarder

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

// raw is a frame whose IP payload is whatever is given.
func raw(t *testing.T, from uint16, src, dst string, proto uint8, payload []byte) []byte {
	t.Helper()
	b := build(t, packetSpec{from: from, src: src, dst: dst, l4: []gopacket.SerializableLayer{gopacket.Payload(payload)}})
	if b[12] == 0x86 {
		b[20] = proto
		return b
	}
	ip := header.IPv4(b[14:])
	b[23] = proto
	ip.UpdateChecksum()
	return b
}

// whole turns the standard floating IPs into ones that translate one to one.
func (s *state) whole() {
	for i, fip := range s.floating {
		next := *fip
		for _, svc := range fip.Mappings {
			one := *svc
			var members []nexthop.Member
			for j := range one.Group.Len() {
				m := one.Group.Member(j)
				m.Port = 0
				members = append(members, m)
			}
			group, err := nexthop.NewGroup(members)
			if err != nil {
				panic(err)
			}
			one.Group = group
			next.Whole, next.Mappings = &one, nil
		}
		s.floating[i] = &next
	}
}

// TestProtocolOfTheOtherFamilyIsJustData: ICMPv6 inside IPv4 and ICMP inside IPv6
// are protocols like any other. They are translated by address, and nothing in
// them is written, however short they are.
func TestProtocolOfTheOtherFamilyIsJustData(t *testing.T) {
	for i, fam := range bothFamilies {
		proto := [2]uint8{header.ProtoICMPv6, header.ProtoICMP}[i]
		for n := range 9 {
			r := newRig(t)
			r.state.whole()
			r.publish()
			payload := []byte{0x81, 2, 3, 4, 5, 6, 7, 8}[:n]
			r.inject(clientPort, raw(t, clientPort, fam.client, fam.fip, proto, payload))
			r.run()
			if r.f.Panics() != 0 {
				t.Fatalf("%s protocol %d, %d bytes: the worker panicked", fam.name, proto, n)
			}
			frame := r.one(memberPort(r.session())).Data()
			if got := frame[len(frame)-n:]; string(got) != string(payload) {
				t.Errorf("%s protocol %d: payload % x became % x", fam.name, proto, payload, got)
			}
		}
	}
}

// TestUntranslatableProtocolIsRefused: UDP-Lite (RFC 3828) and DCCP (RFC 4340) have
// checksums over the addresses that we do not repair, so they do not pass NAT.
func TestUntranslatableProtocolIsRefused(t *testing.T) {
	for _, fam := range bothFamilies {
		for _, proto := range []uint8{33, 136} {
			r := newRig(t)
			r.state.whole()
			r.publish()
			r.inject(clientPort, raw(t, clientPort, fam.client, fam.fip, proto, make([]byte, 16)))
			r.run()
			if r.drops(clientPort, DropNATProtocol) != 1 {
				t.Errorf("%s protocol %d: drops %v", fam.name, proto, r.allDrops())
			}
		}
	}
}

// TestIPv6PairAllowsNoIPv4 allows a workload every IPv6 source: IPv4 addresses,
// which we write v4-mapped, are not among them.
func TestIPv6PairAllowsNoIPv4(t *testing.T) {
	for _, bits := range []uint8{0, 64, 96} {
		r := AddressRange{Bits: bits}
		if a := addr("203.0.113.8"); r.contains(&a) {
			t.Errorf("::/%d holds %v", bits, a)
		}
	}
	all4 := AddressRange{Address: addr("0.0.0.0"), Bits: 96}
	if a := addr("203.0.113.8"); !all4.contains(&a) {
		t.Error("0.0.0.0/0 does not hold an IPv4 address")
	}
	if a := addr("2001:db8::1"); all4.contains(&a) {
		t.Error("0.0.0.0/0 holds an IPv6 address")
	}
}

// TestLaterFragmentOpensNoConnection: where the first fragment may not open a TCP
// connection, the others may not either.
func TestLaterFragmentOpensNoConnection(t *testing.T) {
	r := newRig(t)
	whole := build(t, tcpTo(clientPort, "203.0.113.7", "10.244.0.11", 40000, 22, func(l *layers.TCP) { l.RST = true }, "0123456789abcdef"))
	cut := func(from, to int, flags uint16) []byte {
		b := append(append([]byte(nil), whole[:34]...), whole[34+from:34+to]...)
		ip := header.IPv4(b[14:])
		ip.SetTotalLength(len(ip))
		binary.BigEndian.PutUint16(b[20:], flags|uint16(from/8))
		ip.UpdateChecksum()
		return b
	}
	r.inject(clientPort, cut(0, 24, header.IPv4MoreFragments), cut(24, 36, 0))
	r.run()
	if r.sessions() != 0 || r.drops(clientPort, DropTCPNoSession) != 2 {
		t.Errorf("%d sessions, drops %v", r.sessions(), r.allDrops())
	}
}

// TestPanicCountsEveryPacketOnce: what was answered before a panic is not counted
// as lost by it too.
func TestPanicCountsEveryPacketOnce(t *testing.T) {
	r := newRig(t)
	broken := *r.f.Snapshot()
	broken.FloatingIPs = nil
	r.f.Publish(&broken)
	r.inject(clientPort,
		build(t, packetSpec{from: clientPort, src: "203.0.113.7", dst: "203.0.113.1", l4: []gopacket.SerializableLayer{
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: 1, Seq: 1}, gopacket.Payload("x")}}),
		build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", 1, 80, "x")))
	r.run()
	if n := len(r.sent(clientPort)); n != 1 || r.drops(clientPort, DropWorkerPanic) != 1 {
		t.Errorf("%d answers, drops %v", n, r.allDrops())
	}
}

// TestStopWhilePortsCome stops the workers while ports are attached and detached:
// neither side waits for the other for ever.
func TestStopWhilePortsCome(t *testing.T) {
	r := newRigWorkers(t, 2)
	for range 100 {
		ctx, cancel := context.WithCancel(context.Background())
		var stopped atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := r.f.Run(ctx); err != nil {
				t.Error(err)
			}
			stopped.Store(true)
		})
		wg.Go(func() {
			for !stopped.Load() {
				if err := r.f.Attach(web1Port, r.f.Detach(web1Port)); err != nil {
					t.Error(err)
				}
			}
		})
		cancel()
		wg.Wait()
	}
}

// TestCalledWorkerDoesNotSleep: a look for packets may take the wake-up that came
// with a request. The worker must not go to sleep on it.
func TestCalledWorkerDoesNotSleep(t *testing.T) {
	r := newRig(t)
	w := r.f.workers[0]
	for name, call := range map[string]*atomic.Bool{"request": &w.requests.pending, "stop": &w.stopped} {
		if _, err := w.poller.Wait(w.ready[:], 0); err != nil { // takes what is there
			t.Fatal(err)
		}
		call.Store(true)
		awake := make(chan struct{})
		go func() {
			w.reader.Online()
			w.sleep(0)
			w.reader.Offline()
			close(awake)
		}()
		select {
		case <-awake:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: asleep", name)
			w.poller.Wake()
			<-awake
		}
		call.Store(false)
	}
}
