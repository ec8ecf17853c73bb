package demo

import (
	"bytes"
	"context"
	_ "embed" // the state of a node
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"text/template"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

//go:embed node.yaml.tmpl
var nodeState string

// MaxNodes is the most nodes that the demo has.
const MaxNodes = 8

// fleet is several nodes on one wire, with a web server and a client on each, and a
// host outside that knows nothing of pods.
type fleet struct {
	prefix   string // of the namespaces: the demo's and the process number
	dir      string // of the daemons' sockets, states and configurations
	nodes    []*member
	backends []*backend
	state    *template.Template

	Encapsulation string // that the fabrics prefer
}

// member is one node of a fleet. Its exported fields and methods are those that
// node.yaml.tmpl uses.
type member struct {
	number int
	Name   string
	V4, V6 string // in the fabric
	Pods   []workload
	dead   bool

	namespace string
	socket    string
	world     *world // of its daemon's API
	daemon    *exec.Cmd
	ended     chan error
}

// workload is a pod of a node.
type workload struct {
	Name, Netns string
	V4, V6      string
	Label       int // by which other nodes reach it
}

// Label returns a label of the node: each node gives out its own.
func (m *member) Label(n int) int { return 1000*m.number + n }

// Live returns the nodes that the control plane believes to be alive.
func (f *fleet) Live() []*member {
	return slices.DeleteFunc(slices.Clone(f.nodes), func(m *member) bool { return m.dead })
}

// Others returns the live nodes but one.
func (f *fleet) Others(than *member) []*member {
	return slices.DeleteFunc(f.Live(), func(m *member) bool { return m == than })
}

// newFleet makes the namespaces and the wire. Left-overs of demos that died are
// removed first.
func newFleet(nodes int, dir string) (*fleet, error) {
	if _, err := netns.Cleanup(prefix); err != nil {
		return nil, err
	}
	state, err := template.New("node.yaml").Parse(nodeState)
	if err != nil {
		return nil, err
	}
	f := &fleet{prefix: fmt.Sprintf("%s%d", prefix, os.Getpid()), dir: dir, state: state, Encapsulation: "MPLS_UDP"}
	if err := f.make(nodes); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// namespaceOf returns the name of one of the fleet's namespaces.
func (f *fleet) namespaceOf(role string) string { return f.prefix + "-" + role }

func (f *fleet) make(nodes int) error {
	for _, role := range []string{"wire", "outside"} {
		if _, err := netns.Create(f.namespaceOf(role)); err != nil {
			return err
		}
	}
	if err := makeBridge(f.namespaceOf("wire")); err != nil {
		return err
	}
	if err := plug(f.namespaceOf("wire"), "outside", f.namespaceOf("outside"), outsideAddress+"/24", outsideAddress6+"/64"); err != nil {
		return err
	}
	for i := range nodes {
		m := &member{
			number: i + 1, Name: fmt.Sprintf("node-%d", i+1),
			V4: fmt.Sprintf("192.0.2.%d", 11+i), V6: fmt.Sprintf("2001:db8:10::%d", 11+i),
		}
		m.namespace, m.socket = f.namespaceOf(m.Name), filepath.Join(f.dir, m.Name+".sock")
		f.nodes = append(f.nodes, m)
		if _, err := netns.Create(m.namespace); err != nil {
			return err
		}
		if err := plug(f.namespaceOf("wire"), m.Name, m.namespace, m.V4+"/24", m.V6+"/64"); err != nil {
			return err
		}
		for k, role := range []string{"web", "client"} {
			w := workload{
				Name: fmt.Sprintf("%s-%d", role, i+1), V4: fmt.Sprintf("10.244.%d.%d", i+1, 11+k), V6: fmt.Sprintf("fd00:244::%d:%d", i+1, 11+k), Label: m.Label(21 + k),
			}
			path, err := netns.Create(f.namespaceOf(w.Name))
			if err != nil {
				return err
			}
			w.Netns = path
			m.Pods = append(m.Pods, w)
		}
	}
	return nil
}

// start starts a node's daemon, `vrouter run` in the node's namespace. The daemon does
// not outlive us, however we end.
func (f *fleet) start(m *member) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	config := filepath.Join(f.dir, m.Name+".yaml")
	text := fmt.Appendf(nil, "node: %s\nsocket: %q\nstateDir: %q\nforwarder: {workers: 1}\nlog: {level: error}\n", m.Name, m.socket, filepath.Join(f.dir, m.Name))
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return err
	}
	m.daemon = exec.Command(self, "run", "--config", config)
	m.daemon.Stderr = os.Stderr
	// Ctrl-C is for us: we end the daemons when everything else is done.
	m.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	m.ended = make(chan error, 1)
	started := make(chan error, 1)
	// Pdeathsig is about the thread that starts: it waits for the end.
	go func() {
		m.ended <- netns.Do(m.namespace, func() error {
			err := m.daemon.Start()
			if started <- err; err != nil {
				return err
			}
			return m.daemon.Wait()
		})
	}()
	if err := <-started; err != nil {
		return err
	}
	if m.world != nil {
		return nil // the daemon before has had it
	}
	api, err := client.New(client.Config{Address: m.socket})
	if err != nil {
		return err
	}
	m.world = &world{api: api}
	return nil
}

// answers waits until a node's daemon answers.
func (m *member) answers(ctx context.Context) error {
	up, err := eventually(ctx, func() (bool, error) {
		_, err := m.world.api.Status(ctx)
		return err == nil, nil
	})
	if err == nil && !up {
		err = fmt.Errorf("%s: the daemon does not answer after %v", m.Name, patience)
	}
	return err
}

// stop ends a node's daemon by a signal and waits for its end.
func (m *member) stop(signal syscall.Signal) error {
	if m.daemon == nil || m.daemon.Process == nil {
		return nil
	}
	err := m.daemon.Process.Signal(signal)
	end := <-m.ended
	m.daemon = nil
	if signal == syscall.SIGKILL {
		end = nil // it says that it was killed
	}
	return errors.Join(err, end)
}

// sync hands every live node the state that the fleet has now.
func (f *fleet) sync(ctx context.Context) (resources int, err error) {
	for _, m := range f.Live() {
		var text bytes.Buffer
		if err := f.state.Execute(&text, map[string]any{"Fleet": f, "Node": m}); err != nil {
			return resources, err
		}
		documents, err := statefile.Parse([]statefile.Source{{Name: m.Name + ".yaml", Data: text.Bytes()}}, nil)
		if err != nil {
			return resources, err
		}
		request, want := &pb.ApplyRequest{}, map[string]bool{}
		for _, d := range documents {
			request.Upserts = append(request.Upserts, d.Resource)
			want[d.Kind()+" "+d.Resource.GetName()] = true
		}
		have, _, err := m.world.api.List(ctx, &pb.ListRequest{})
		if err != nil {
			return resources, err
		}
		for _, r := range have {
			if kind := statefile.Kind(r); !want[kind+" "+r.GetName()] {
				request.Deletes = append(request.Deletes, &pb.ResourceKey{Kind: kind, Name: r.GetName()})
			}
		}
		if _, err := m.world.api.Apply(ctx, request); err != nil {
			return resources, fmt.Errorf("%s: %w", m.Name, err)
		}
		resources += len(documents)
	}
	return resources, nil
}

// ready waits until every port of every live node is up, and each node knows the way
// to every other.
func (f *fleet) ready(ctx context.Context) error {
	for _, m := range f.Live() {
		var reason string
		up, err := eventually(ctx, func() (bool, error) {
			status, err := m.world.api.Status(ctx)
			reason = ""
			for _, p := range status.GetPorts() {
				if p.GetState() != pb.PortStatus_UP {
					reason = "the port " + p.GetName() + " is not up: " + p.GetReason()
				}
			}
			for _, p := range status.GetPeers() {
				if p.GetState() != pb.PeerStatus_UP {
					reason = "no way to " + p.GetName() + ": " + p.GetReason()
				}
			}
			return reason == "", err
		})
		if err != nil || !up {
			return errors.Join(err, fmt.Errorf("%s: %s", m.Name, reason))
		}
	}
	return nil
}

// journey explains a packet from the node's client to another node's web server.
func (m *member) journey(ctx context.Context, to *member) (*pb.ExplainResponse, error) {
	return m.world.api.Explain(ctx, &pb.ExplainRequest{
		VirtualMachineInterface: m.client().Name, Destination: to.web().V4, Protocol: pb.Protocol_TCP, DestinationPort: webPort,
	})
}

// close ends daemons and servers and removes the namespaces.
func (f *fleet) close() error {
	var errs []error
	for _, b := range f.backends {
		b.close()
	}
	roles := []string{"wire", "outside"}
	for _, m := range f.nodes {
		if m.world != nil {
			errs = append(errs, m.world.api.Close())
		}
		errs = append(errs, m.stop(syscall.SIGTERM))
		roles = append(roles, m.Name)
		for _, w := range m.Pods {
			roles = append(roles, w.Name)
		}
	}
	for _, role := range roles {
		errs = append(errs, netns.Delete(f.namespaceOf(role)))
	}
	return errors.Join(errs...)
}
