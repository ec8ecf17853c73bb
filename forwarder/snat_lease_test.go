package forwarder

import (
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/nat"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

// TestSNATPortsComeBack: every way in which a session ends gives its port back, once,
// and no sooner than the endpoint's last session ends.
func TestSNATPortsComeBack(t *testing.T) {
	a := snatFamilies["IPv4"]
	open := func(r *rig) {
		for n := range 2 {
			r.leave(udpTo(web1Port, a.pod, a.at(n), 40000, 7000, "q"))
		}
		if r.used(nat.UDP) != 1 {
			r.t.Fatalf("%d ports for one socket", r.used(nat.UDP))
		}
	}
	end := func(r *rig, n int) {
		r.f.Flows().Range(0, r.f.Flows().Capacity()+1, func(ref flowtable.Ref, _ *flowtable.Session) bool {
			r.f.EndSession(ref)
			n--
			return n > 0
		})
	}
	for name, finish := range map[string]func(r *rig){
		"idle":     func(r *rig) { r.nanos += int64(301 * time.Second); r.f.Sweep() },
		"operator": func(r *rig) { end(r, 1); end(r, 1) },
		"workload gone": func(r *rig) {
			r.state.interfaces[web1Port] = Interface{}
			r.publish()
			r.f.Sweep()
		},
		"withdrawn, next packets": func(r *rig) {
			r.state.interfaces[web1Port].SNAT = false
			r.publish()
			for n := range 2 {
				r.inject(web1Port, build(r.t, udpTo(web1Port, a.pod, a.at(n), 40000, 7000, "q")))
				r.run()
			}
			if r.drops(web1Port, DropNATWithdrawn) != 2 {
				r.t.Errorf("drops %v", r.allDrops())
			}
		},
		"withdrawn, ager": func(r *rig) {
			r.state.snat.IPv4 = addr("192.0.2.99")
			r.publish()
			r.f.Sweep()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSNATRig(t, standardPorts)
			open(r)
			finish(r)
			if r.sessions() != 0 || r.used(nat.UDP) != 0 || r.f.Charged(web1Port) != 0 {
				t.Errorf("%d sessions, %d ports, %d charged", r.sessions(), r.used(nat.UDP), r.f.Charged(web1Port))
			}
		})
	}
	t.Run("one of two", func(t *testing.T) {
		r := newSNATRig(t, standardPorts)
		open(r)
		end(r, 1)
		if r.sessions() != 1 || r.used(nat.UDP) != 1 {
			t.Errorf("%d sessions, %d ports", r.sessions(), r.used(nat.UDP))
		}
	})
	t.Run("reopened", func(t *testing.T) { // RFC 5382 REQ-2: the SYN on a closed connection finds the port again
		r := newSNATRig(t, standardPorts)
		rst := func(l *layers.TCP) { l.RST, l.ACK, l.Seq, l.Ack = true, true, 1001, 1001 }
		_, _, mapped, _ := tuple(r.leave(tcpTo(web1Port, a.pod, a.server, 40000, 443, syn, "")))
		r.arrive(tcpTo(uplinkPort, a.server, a.node, 443, mapped, synAck, ""))
		r.one(web1Port)
		r.leave(tcpTo(web1Port, a.pod, a.server, 40000, 443, rst, ""))
		_, _, again, _ := tuple(r.leave(tcpTo(web1Port, a.pod, a.server, 40000, 443, func(l *layers.TCP) { l.SYN, l.Seq = true, 90000 }, "")))
		if again != mapped || r.used(nat.TCP) != 1 || r.sessions() != 1 {
			t.Errorf("port %d then %d, %d in use, %d sessions", mapped, again, r.used(nat.TCP), r.sessions())
		}
	})
	t.Run("never made", func(t *testing.T) { // the quota, and a reply key that is somebody's
		r := newSNATRig(t, nat.Range{First: 61000, Last: 61000})
		r.state.interfaces[web1Port].Quota = 1
		r.publish()
		open := udpTo(web1Port, a.pod, a.server, 40000, 7000, "q")
		r.leave(open)
		r.inject(web1Port, build(t, udpTo(web1Port, a.pod, a.at(1), 40000, 7000, "q")))
		r.run()
		r.one(web1Port)
		end(r, 1)
		if r.drops(web1Port, DropFlowQuota) != 1 || r.used(nat.UDP) != 0 {
			t.Errorf("%d ports in use, drops %v", r.used(nat.UDP), r.allDrops())
		}
	})
}

// TestSNATLivesOnOverCommits: a live session keeps its source when the range moves,
// when its VRF gets a way to the destination, and when translation is turned on.
func TestSNATLivesOnOverCommits(t *testing.T) {
	a := snatFamilies["IPv6"]
	r := newSNATRig(t, standardPorts)
	_, _, mapped, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.server, 40000, 7000, "q")))
	for name, change := range map[string]func(){
		"nothing": func() {},
		"range":   func() { r.state.snat.Ports = nat.Range{First: 50000, Last: 50010} },
		"route": func() {
			r.state.vrfs[podsVRF][netip.MustParsePrefix(a.server+"/128")] = nexthop.Route{NextHop: InterfaceNextHop(vhostPort), Network: fabricNet}
		},
	} {
		change()
		r.publish()
		if src, _, again, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.server, 40000, 7000, "q"))); src != a.node || again != mapped {
			t.Errorf("%s: left as %s:%d, want %s:%d", name, src, again, a.node, mapped)
		}
		r.arrive(udpTo(uplinkPort, a.server, a.node, 7000, mapped, "a"))
		r.one(web1Port)
	}
	if _, _, fresh, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.at(1), 40001, 7000, "q"))); fresh < 50000 || fresh > 50010 {
		t.Errorf("a new socket has port %d", fresh)
	}

	// Without translation a connection leaves by a route of the VRF, and goes on so.
	r = newSNATRig(t, standardPorts)
	r.state.vrfs[podsVRF][netip.MustParsePrefix("::/0")] = r.state.vrfs[fabricVRF][netip.MustParsePrefix("::/0")]
	r.state.interfaces[web1Port].SNAT = false
	r.publish()
	r.leave(udpTo(web1Port, a.pod, a.server, 40000, 7000, "q"))
	r.state.interfaces[web1Port].SNAT = true
	r.publish()
	if src, _, _, _ := tuple(r.leave(udpTo(web1Port, a.pod, a.server, 40000, 7000, "q"))); src != a.pod || r.used(nat.UDP) != 0 {
		t.Errorf("turned on under a live session, it leaves as %s", src)
	}
}

// TestSNATUnderChange lets everything happen at once on several workers: more sockets
// than there are ports, the same ones to several servers, answers, sessions ended by
// hand, a network that may leave and may not, a range that moves. Afterwards every
// endpoint has one port, every port one endpoint, and no other is in use.
func TestSNATUnderChange(t *testing.T) {
	ranges := [2]nat.Range{{First: 61000, Last: 61063}, {First: 61032, Last: 61095}}
	r := newSNATRigWorkers(t, 3, ranges[0])
	a := snatFamilies["IPv4"]
	stop := r.running()
	done := make(chan struct{})
	var wg sync.WaitGroup
	repeat := func(do func(i int)) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
					do(i)
				}
			}
		})
	}
	repeat(func(i int) {
		r.state.interfaces[web3Port].SNAT = i%8 != 7
		r.state.snat.Ports = ranges[i/16%2]
		r.publish()
		runtime.Gosched()
	})
	repeat(func(i int) {
		r.f.Flows().Range(uint32(i*37%4000), 16, func(ref flowtable.Ref, _ *flowtable.Session) bool {
			r.f.EndSession(ref)
			return true
		})
		runtime.Gosched()
	})
	for from := web1Port; from <= web3Port; from++ {
		var list [][]byte
		for i := range uint16(180) {
			list = append(list, build(t, udpTo(from, "10.244.0.1"+string(rune('1'+from-web1Port)), a.at(int(i%3)), 1000+i/3, 7000, "q")))
		}
		f, sink := port.NewFrame(), []*port.Frame{port.NewFrame()}
		repeat(func(i int) {
			f.Reset()
			f.End = f.Start + copy(f.Buf[f.Start:], list[i*7%len(list)])
			r.ports[from].Inject(0, f)
			for r.ports[from].Drain(0, sink) == 1 {
			}
		})
	}
	f, sink := port.NewFrame(), []*port.Frame{port.NewFrame()}
	repeat(func(int) { // the servers answer what they get
		for r.ports[uplinkPort].Drain(0, sink) == 1 {
			b := append([]byte(nil), sink[0].Bytes()...)
			m := mac(byte(uplinkPort))
			copy(b[0:], m[:])
			copy(b[6:], outsideMAC[:])
			copy(b[26:], sink[0].Bytes()[30:34])
			copy(b[30:], sink[0].Bytes()[26:30])
			copy(b[34:], sink[0].Bytes()[36:38])
			copy(b[36:], sink[0].Bytes()[34:36])
			f.Reset()
			f.End = f.Start + copy(f.Buf[f.Start:], b)
			r.ports[uplinkPort].Inject(0, f)
		}
		runtime.Gosched()
	})
	eventually(t, "traffic, answers, and ports used up", func() bool {
		return r.f.PortCounters(web1Port).RxPackets > 2000 && r.f.PortCounters(web1Port).TxPackets > 50 && r.drops(web2Port, DropNATPorts) > 0
	})
	close(done)
	wg.Wait()
	stop()
	r.run()

	ports, owners, sessions := map[nat.Endpoint]uint16{}, map[uint16]nat.Endpoint{}, 0
	r.f.Flows().Range(0, r.f.Flows().Capacity()+1, func(_ flowtable.Ref, s *flowtable.Session) bool {
		forward, reply := s.Key(flowtable.Forward), s.Key(flowtable.Reply)
		if !s.Leased() {
			return true
		}
		sessions++
		e := nat.Endpoint{Address: forward.Src, Port: forward.SrcPort, VRF: forward.VRF}
		if p, ok := ports[e]; ok && p != reply.DstPort {
			t.Errorf("%v has ports %d and %d", e, p, reply.DstPort)
		}
		if o, ok := owners[reply.DstPort]; ok && o != e {
			t.Errorf("port %d belongs to %v and %v", reply.DstPort, o, e)
		}
		ports[e], owners[reply.DstPort] = reply.DstPort, e
		return true
	})
	if r.f.Panics() != 0 || r.used(nat.UDP) != len(ports) || sessions == 0 {
		t.Errorf("%d panics; %d sessions of %d endpoints, %d ports in use", r.f.Panics(), sessions, len(ports), r.used(nat.UDP))
	}
	r.nanos += int64(301 * time.Second)
	r.f.Sweep()
	if r.sessions() != 0 || r.used(nat.UDP) != 0 {
		t.Errorf("%d sessions and %d ports after the timeout", r.sessions(), r.used(nat.UDP))
	}
}
