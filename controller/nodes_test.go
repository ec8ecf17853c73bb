package controller

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/controller/network"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/memory"
	"github.com/vrouter-go/vrouter/test/packet"
)

// machine is a node whose controller has compiled a cluster: the production compiler and
// forwarder over wires that the test holds.
type machine struct {
	t       *testing.T
	fwd     *forwarder.Forwarder
	result  *compile.Result
	devices map[string]*memory.Device
	frame   *port.Frame
}

func newMachine(t *testing.T, name, number string, objects []metav1.Object) *machine {
	t.Helper()
	c := newCompiler(&Config{Node: name, Network: network.Options{Uplink: "eth0"}})
	j := newJudge(t)
	j.part = number
	j.given = map[string]int{"default:client": 3, "default:web-1": 4, "default:web-2": 4, "blue:b-1": 5, "blue:b-2": 5}
	j.apply(c.feed(t, objects...))
	m := &machine{t: t, devices: map[string]*memory.Device{}, frame: port.NewFrame()}
	m.fwd, m.result = compiled(t, j.state, number)
	for _, spec := range m.result.Ports {
		if spec == nil {
			continue
		}
		d, err := memory.New(memory.Config{Name: spec.Name, Depth: 64})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.fwd.Attach(spec.Port, d); err != nil {
			t.Fatal(err)
		}
		m.devices[spec.Name] = d
	}
	m.drain("uplink")
	return m
}

// inject puts a frame on a wire and lets the forwarder work.
func (m *machine) inject(device string, frame []byte) {
	m.t.Helper()
	m.frame.Reset()
	m.frame.End = m.frame.Start + copy(m.frame.Buf[m.frame.Start:], frame)
	if d := m.devices[device]; d == nil || d.Inject(0, m.frame) != 1 {
		m.t.Fatalf("%s does not take the frame", device)
	}
	for m.fwd.Step() {
	}
}

// drain returns what a wire was sent.
func (m *machine) drain(device string) (frames [][]byte) {
	one := []*port.Frame{m.frame}
	for m.devices[device].Drain(0, one) == 1 {
		frames = append(frames, append([]byte(nil), m.frame.Bytes()...))
	}
	return frames
}

// send has an interface send a packet, written as a line.
func (m *machine) send(from, line string) {
	m.t.Helper()
	var mac net.HardwareAddr
	for _, spec := range m.result.Ports {
		if spec != nil && spec.Name == from {
			mac = spec.Tap.MAC
		}
	}
	frame, err := packet.Build(line, packet.Link{Src: mac, Dst: forwarder.RouterMAC[:]})
	if err != nil {
		m.t.Fatal(err)
	}
	m.inject(from, frame)
}

// carry takes what one machine sends by its uplink to the other.
func carry(from, to *machine) (n int) {
	for _, f := range from.drain("uplink") {
		to.inject("uplink", f)
		n++
	}
	return n
}

// got returns the TCP packets over IPv4 that an interface was sent, as "source > destination".
func (m *machine) got(device string) string {
	m.t.Helper()
	var lines []string
	for _, f := range m.drain(device) {
		if f[12] == 8 && f[13] == 0 && f[14+9] == 6 { // what else there is announces gateways
			lines = append(lines, ends(f))
		}
	}
	return strings.Join(lines, "; ")
}

// ends reads addresses and ports of a TCP packet over IPv4 without options.
func ends(frame []byte) string {
	ip := frame[14:]
	at := func(a, p []byte) string {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(a)), uint16(p[0])<<8|uint16(p[1])).String()
	}
	return at(ip[12:16], ip[20:22]) + " > " + at(ip[16:20], ip[22:24])
}

// A connection from n1 to a member on n2 is answered, whoever calls.
func TestTwoNodes(t *testing.T) {
	far, own := svc("default", "far", "10.96.0.14"), svc("blue", "own", "10.96.0.16")
	far.Spec.Type, far.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	own.Spec.Type, own.Spec.Ports[0].NodePort = corev1.ServiceTypeLoadBalancer, 30081
	own.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.80"}}
	web2, b2 := pod("default", "web-2", "n2", "10.244.2.4"), pod("blue", "b-2", "n2", "10.244.2.5")
	objects := []metav1.Object{
		namespace("default", nil), namespace("blue", map[string]string{network.IsolationAnnotation: "true"}),
		node("n1", "a", []string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.11"), node("n2", "b", []string{"10.244.2.0/24", "fd00:244:2::/64"}, "192.0.2.12"),
		serviceCIDR("kubernetes", "10.96.0.0/16"), far, own, slice(far, "far-x", true, web2), slice(own, "own-x", true, b2), web2, b2,
		pod("default", "client", "n1", "10.244.1.3"), pod("blue", "b-1", "n1", "10.244.1.5"),
	}
	for _, c := range []struct {
		what, from, source, dst, member, address string
	}{
		{"pod to service", "default:client", "10.244.1.3:4000", "10.96.0.14:80", "default:web-2", "10.244.2.4:8080"},
		{"pod to node port", "default:client", "10.244.1.3:4001", "192.0.2.11:30080", "default:web-2", "10.244.2.4:8080"},
		{"pod to the other node's port", "default:client", "10.244.1.3:4002", "192.0.2.12:30080", "default:web-2", "10.244.2.4:8080"},
		{"pod to pod", "default:client", "10.244.1.3:4003", "10.244.2.4:8080", "default:web-2", "10.244.2.4:8080"},
		{"pod to the other node", "default:client", "10.244.1.3:4018", "192.0.2.12:22", "vhost0", "192.0.2.12:22"},
		{"isolated to the other node", "blue:b-1", "10.244.1.5:4019", "192.0.2.12:22", "vhost0", "192.0.2.12:22"},
		{"node to service", "vhost0", "192.0.2.11:4004", "10.96.0.14:80", "default:web-2", "10.244.2.4:8080"},
		{"node to pod", "vhost0", "192.0.2.11:4005", "10.244.2.4:8080", "default:web-2", "10.244.2.4:8080"},
		{"node to isolated pod", "vhost0", "192.0.2.11:4006", "10.244.2.5:8080", "blue:b-2", "10.244.2.5:8080"},
		{"node to isolated service", "vhost0", "192.0.2.11:4007", "10.96.0.16:80", "blue:b-2", "10.244.2.5:8080"},
		{"isolated to its service", "blue:b-1", "10.244.1.5:4008", "10.96.0.16:80", "blue:b-2", "10.244.2.5:8080"},
		{"isolated to its pod", "blue:b-1", "10.244.1.5:4009", "10.244.2.5:8080", "blue:b-2", "10.244.2.5:8080"},
		{"isolated to a shared service", "blue:b-1", "10.244.1.5:4010", "10.96.0.14:80", "default:web-2", "10.244.2.4:8080"},
		{"isolated to others' node port", "blue:b-1", "10.244.1.5:4013", "192.0.2.11:30080", "default:web-2", "10.244.2.4:8080"},
		{"isolated to others' port of the other node", "blue:b-1", "10.244.1.5:4014", "192.0.2.12:30080", "default:web-2", "10.244.2.4:8080"},
		{"pod to an isolated node port", "default:client", "10.244.1.3:4015", "192.0.2.11:30081", "blue:b-2", "10.244.2.5:8080"},
		{"pod to an isolated load balancer", "default:client", "10.244.1.3:4016", "198.51.100.80:80", "blue:b-2", "10.244.2.5:8080"},
		{"isolated to its own load balancer", "blue:b-1", "10.244.1.5:4017", "198.51.100.80:80", "blue:b-2", "10.244.2.5:8080"},
		{"isolated to another's pod", "blue:b-1", "10.244.1.5:4011", "10.244.2.4:8080", "", ""},
		{"pod to an isolated pod", "default:client", "10.244.1.3:4012", "10.244.2.5:8080", "", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			n1, n2 := newMachine(t, "n1", "1", objects), newMachine(t, "n2", "2", objects)
			n1.send(c.from, c.source+" > "+c.dst+" tcp syn seq=1000")
			if carry(n1, n2) != 1 {
				t.Fatalf("nothing left n1: %v", n1.drops())
			}
			if c.member == "" {
				if web, b := n2.got("default:web-2"), n2.got("blue:b-2"); web != "" || b != "" {
					t.Errorf("delivered: %s %s", web, b)
				}
				return
			}
			if got, want := n2.got(c.member), c.source+" > "+c.address; got != want {
				t.Fatalf("the member got %q, want %q: %v", got, want, n2.drops())
			}
			n2.send(c.member, c.address+" > "+c.source+" tcp syn ack seq=5000 ackno=1001")
			carry(n2, n1)
			if got, want := n1.got(c.from), c.dst+" > "+c.source; got != want {
				t.Errorf("the answer is %q, want %q: %v, then %v", got, want, n2.drops(), n1.drops())
			}
		})
	}
}

// What another node's kernel says about a packet to itself reaches the pod that sent it,
// in whatever network that is, and no other pod.
func TestNodeComplains(t *testing.T) {
	objects := []metav1.Object{
		namespace("default", nil), namespace("blue", map[string]string{network.IsolationAnnotation: "true"}),
		node("n1", "a", []string{"10.244.1.0/24", "fd00:244:1::/64"}, "192.0.2.11"), node("n2", "b", []string{"10.244.2.0/24", "fd00:244:2::/64"}, "192.0.2.12"),
		serviceCIDR("kubernetes", "10.96.0.0/16"), pod("default", "client", "n1", "10.244.1.3"), pod("blue", "b-1", "n1", "10.244.1.5"),
	}
	for from, address := range map[string]string{"default:client": "10.244.1.3", "blue:b-1": "10.244.1.5"} {
		t.Run(from, func(t *testing.T) {
			n1, n2 := newMachine(t, "n1", "1", objects), newMachine(t, "n2", "2", objects)
			said := address + ":4000 > 192.0.2.12:9 udp len=32"
			n1.send(from, said)
			if carry(n1, n2) != 1 || len(n2.drain("vhost0")) == 0 {
				t.Fatalf("the other node got nothing: %v, %v", n1.drops(), n2.drops())
			}
			n1.drain(from)
			for _, about := range []string{address + ":4001 > 192.0.2.12:9 udp len=32", said} {
				n2.send("vhost0", "192.0.2.12 > "+address+" icmp port-unreachable ["+about+"]")
				carry(n2, n1)
				if got, want := len(n1.drain(from)), map[bool]int{true: 1}[about == said]; got != want {
					t.Errorf("%d errors about %s arrived, want %d: %v, then %v", got, about, want, n2.drops(), n1.drops())
				}
			}
		})
	}
}

// drops names the reasons for which packets were dropped.
func (m *machine) drops() (list []string) {
	for _, spec := range m.result.Ports {
		if spec == nil {
			continue
		}
		for reason, n := range m.fwd.PortCounters(spec.Port).Drops {
			if n > 0 {
				list = append(list, spec.Name+": "+forwarder.DropReason(reason).String())
			}
		}
	}
	return list
}
