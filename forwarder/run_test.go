package forwarder

import (
	"context"
	"encoding/binary"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/nexthop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running starts the workers and returns a function that stops them.
func (r *rig) running() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.f.Run(ctx); err != nil {
			r.t.Error(err)
		}
	})
	stop = func() { cancel(); wg.Wait() }
	r.t.Cleanup(stop) // before the rig's own, also where a test gives up
	return stop
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("did not happen: " + what)
		}
	}
}

// TestPacketSeesOneSnapshot flips between two states while two ports send:
// every packet that comes out was translated by one state as a whole.
func TestPacketSeesOneSnapshot(t *testing.T) {
	const packets = 20000
	r := newRigWorkers(t, 2)
	base := r.state.floating
	flip := func(i int) { // even: web-1 at 8080; odd: web-2 at 9090
		r.state.floating = base
		r.state.members(t, func(m []nexthop.Member) []nexthop.Member {
			m = m[i%2 : i%2+1]
			m[0].Port = uint16(8080 + 1010*(i%2))
			return m
		})
		r.publish()
	}
	flip(0)
	stop := r.running()

	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-done:
				return
			default:
				flip(i)
			}
		}
	})
	var got [2]int
	wg.Go(func() {
		frames := []*port.Frame{port.NewFrame()}
		for idle := false; ; {
			n := 0
			for which := range got {
				for r.ports[web1Port+uint16(which)].Drain(0, frames) == 1 {
					n++
					got[which]++
					b := frames[0].Bytes()
					dst, dport := b[33], binary.BigEndian.Uint16(b[36:])
					if int(dst) != 11+which || int(dport) != 8080+1010*which {
						t.Errorf("web-%d got a packet for 10.244.0.%d:%d", which+1, dst, dport)
						return
					}
				}
			}
			if n == 0 {
				if idle {
					return
				}
				select {
				case <-done:
					idle = true
				default:
					runtime.Gosched()
				}
			}
		}
	})
	for i := range packets {
		b := build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", uint16(1+i%5000), 80, "x"))
		f := port.NewFrame()
		f.End = f.Start + copy(f.Buf[f.Start:], b)
		eventually(t, "room on the client's wire", func() bool { return r.ports[clientPort].Inject(0, f) == 1 })
	}
	eventually(t, "every packet read", func() bool { return r.f.PortCounters(clientPort).RxPackets == packets })
	close(done)
	wg.Wait()
	stop()
	r.conserve()
	if r.f.Panics() != 0 {
		t.Errorf("%d panics", r.f.Panics())
	}
	if got[0] == 0 || got[1] == 0 {
		t.Errorf("packets by state: %v, want some of both", got)
	}
}

// TestBothDirectionsOnTwoWorkers lets two workers carry the two directions of
// many connections at once and checks that each connection is one session.
func TestBothDirectionsOnTwoWorkers(t *testing.T) {
	const flows = 2000
	r := newRigWorkers(t, 2)
	stop := r.running()
	for i := range uint16(flows) {
		out := build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 10000+i, 53, "q"))
		back := build(t, udpTo(web1Port, "10.244.0.11", "203.0.113.7", 53, 10000+i, "a"))
		for _, x := range []struct {
			port  uint16
			bytes []byte
		}{{clientPort, out}, {web1Port, back}} {
			f := port.NewFrame()
			f.End = f.Start + copy(f.Buf[f.Start:], x.bytes)
			eventually(t, "room on the wire", func() bool {
				r.sentFrames(clientPort)
				r.sentFrames(web1Port)
				return r.ports[x.port].Inject(0, f) == 1
			})
		}
	}
	eventually(t, "every packet read", func() bool {
		r.sentFrames(clientPort)
		r.sentFrames(web1Port)
		return r.f.PortCounters(clientPort).RxPackets+r.f.PortCounters(web1Port).RxPackets == 2*flows
	})
	stop()
	r.conserve()
	if n := r.sessions(); n != flows {
		t.Errorf("%d sessions for %d connections", n, flows)
	}
}

// TestDetachWhileTrafficRuns takes a port away and gives it back.
func TestDetachWhileTrafficRuns(t *testing.T) {
	r := newRigWorkers(t, 2)
	stop := r.running()
	frame := func() *port.Frame {
		f := port.NewFrame()
		f.End = f.Start + copy(f.Buf[f.Start:], build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 7, 53, "q")))
		return f
	}
	for range 50 {
		for range 20 {
			f := frame()
			eventually(t, "room on the wire", func() bool { return r.ports[clientPort].Inject(0, f) == 1 })
		}
		dev := r.f.Detach(web1Port)
		if dev == nil || r.f.Device(web1Port) != nil {
			t.Fatal("the port still has its device")
		}
		if err := r.f.Attach(web1Port, dev); err != nil {
			t.Fatal(err)
		}
		r.sentFrames(web1Port)
	}
	if err := r.f.Attach(web1Port, r.ports[web1Port]); err == nil {
		t.Error("a second device on one port")
	}
	eventually(t, "every packet read", func() bool { r.sentFrames(web1Port); return r.f.PortCounters(clientPort).RxPackets == 1000 })
	stop()
	r.conserve()
}

// TestWorkerSurvivesAPanic injects a bug: a snapshot whose floating IP list is
// too short for its next hops.
func TestWorkerSurvivesAPanic(t *testing.T) {
	r := newRig(t)
	broken := *r.f.Snapshot()
	broken.FloatingIPs = nil
	r.f.Publish(&broken)
	r.inject(clientPort,
		build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", 1, 80, "x")),
		build(t, udpTo(clientPort, "203.0.113.7", "10.96.0.10", 2, 80, "x")))
	r.run()
	if r.f.Panics() != 1 || r.drops(clientPort, DropWorkerPanic) != 2 {
		t.Errorf("%d panics, drops %v", r.f.Panics(), r.allDrops())
	}
	r.publish()
	r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 1, 53, "x")))
	r.run()
	r.one(web1Port)
}

// TestPublishWaitsForTheBatchInHand holds a worker in the middle of a batch.
func TestPublishWaitsForTheBatchInHand(t *testing.T) {
	r := newRig(t)
	inside, leave := make(chan struct{}), make(chan struct{})
	w := r.f.workers[0]
	r.inject(clientPort, build(t, udpTo(clientPort, "203.0.113.7", "10.244.0.11", 7, 53, "q")))
	clock := r.f.clock
	var once sync.Once
	r.f.clock = func() int64 {
		once.Do(func() { close(inside); <-leave })
		return clock()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		w.reader.Online()
		defer w.reader.Offline()
		for token := range w.queues {
			w.serveQueue(token)
		}
	})
	<-inside
	published := make(chan struct{})
	wg.Go(func() { r.publish(); close(published) })
	eventually(t, "the new snapshot stored", func() bool { return r.f.Snapshot().Epoch == 2 })
	select {
	case <-published:
		t.Error("Publish returned while a worker used the old snapshot")
	default:
	}
	close(leave)
	wg.Wait()
}

// TestAccountsUnderChange lets everything happen at once: new flows through the
// service and past it, their answers, members that come and go, a port whose
// index changes hands, sessions ended by hand and by age. Afterwards every session
// is charged to a port once, no other is, and no packet is missing.
func TestAccountsUnderChange(t *testing.T) {
	r := newRigWorkers(t, 3)
	base, client := r.state.floating, r.state.interfaces[clientPort]
	other := client
	other.Name, other.Sources = "other", []AddressRange{{Address: addr("203.0.113.99"), Bits: 128}}
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
		r.state.floating = base
		r.state.members(t, func(m []nexthop.Member) []nexthop.Member { return m[i%3:] })
		r.state.interfaces[clientPort] = client
		if i%16 == 15 {
			r.state.interfaces[clientPort] = other
		}
		r.publish()
	})
	repeat(func(i int) {
		r.f.Flows().Range(uint32(i*37%4000), 64, func(ref flowtable.Ref, _ *flowtable.Session) bool {
			r.f.EndSession(ref)
			return true
		})
		runtime.Gosched()
	})
	var templates [5][][]byte
	for from := clientPort; from <= web3Port; from++ {
		for i := range uint16(64) {
			b := build(t, udpTo(from, "10.244.0.1"+string(rune('1'+from-web1Port)), "203.0.113.7", 8080, 1000+i, "a"))
			if from == clientPort {
				b = build(t, udpTo(from, "203.0.113.7", [2]string{"10.96.0.10", "10.244.0.12"}[i%2], 1000+i/2, 80, "q"))
			}
			templates[from-clientPort] = append(templates[from-clientPort], b)
		}
	}
	for from := clientPort; from <= web3Port; from++ {
		list, f, sink := templates[from-clientPort], port.NewFrame(), []*port.Frame{port.NewFrame()}
		repeat(func(i int) {
			f.Reset()
			f.End = f.Start + copy(f.Buf[f.Start:], list[i%len(list)])
			r.ports[from].Inject(0, f)
			for r.ports[from].Drain(0, sink) == 1 {
			}
		})
	}
	eventually(t, "traffic", func() bool { return r.f.PortCounters(clientPort).RxPackets > 5000 })
	close(done)
	wg.Wait()
	stop()
	r.run()
	charged := 0
	for i := range uint16(len(r.state.interfaces)) {
		charged += r.f.Charged(i)
	}
	if r.f.Panics() != 0 || charged != r.sessions() {
		t.Errorf("%d panics; %d sessions, %d charged", r.f.Panics(), r.sessions(), charged)
	}
	for range 2 { // whoever lost their port leave, then the rest by age
		r.state.interfaces[clientPort] = Interface{}
		r.publish()
		r.f.Sweep()
		if n := r.f.Charged(clientPort); n != 0 {
			t.Errorf("%d sessions charged to a port without workload", n)
		}
		r.nanos += 301 * 1e9
	}
	r.f.Sweep()
	if r.sessions() != 0 {
		t.Errorf("%d sessions after the timeout", r.sessions())
	}
}
