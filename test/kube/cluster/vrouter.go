//go:build linux

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// vrkubeUser is who vrkube is to the apiserver: the account of our manifests.
const vrkubeUser = "system:serviceaccount:vrouter-system:vrkube"

// VRouterNode is what runs on a node whose dataplane is ours.
type VRouterNode struct {
	Agent *client.Client   // of the API of vrouter
	Run   *process.Process // vrouter run; nil while it is stopped
	Kube  *process.Process // vrkube run; nil while it is stopped

	n *Node
}

// patience is how long a program may take to start or to end.
const patience = 20 * time.Second

func (v *VRouterNode) socket() string { return filepath.Join(v.n.dir, "vrouter.sock") }

// startVRouter starts vrouter and vrkube on a node.
func (n *Node) startVRouter(ctx context.Context) error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	v := &VRouterNode{n: n}
	n.VRouter = v
	// A pod may have a quarter of the sessions; the load of a test opens tens of thousands,
	// and closed ones are remembered for a while.
	text := fmt.Sprintf("node: %[1]s\nsocket: %[2]s/vrouter.sock\nstateDir: %[2]s/state\nmetrics: {socket: %[2]s/metrics.sock}\nforwarder: {workers: 1, sessions: 262144}\n", n.Name, n.dir)
	if err := os.WriteFile(filepath.Join(n.dir, "vrouter.yaml"), []byte(text), 0o644); err != nil {
		return err
	}
	var err error
	if v.Agent, err = client.New(client.Config{Address: v.socket()}); err != nil {
		return err
	}
	n.c.closers = append(n.c.closers, func() error { v.Agent.Close(); return nil }, func() error { return v.StopAgent(syscall.SIGTERM) }, func() error { return v.StopKube(syscall.SIGTERM) })
	if err := v.StartAgent(ctx); err != nil {
		return err
	}
	return v.StartKube()
}

// StartAgent starts vrouter and waits until it answers.
func (v *VRouterNode) StartAgent(ctx context.Context) (err error) {
	if v.Run != nil {
		return errors.New("vrouter runs already")
	}
	v.Run, err = process.Start(v.n.Namespace, filepath.Join(v.n.dir, "vrouter.log"), nil,
		filepath.Join(v.n.c.o.Programs, "vrouter"), "run", "--config", filepath.Join(v.n.dir, "vrouter.yaml"))
	if err != nil {
		return err
	}
	return Until(ctx, patience, "vrouter answers", func(ctx context.Context) error {
		if err := v.Run.Failed(); err != nil {
			return err
		}
		_, err := v.Agent.Status(ctx)
		return err
	})
}

// StartKube starts vrkube.
func (v *VRouterNode) StartKube() (err error) {
	if v.Kube != nil {
		return errors.New("vrkube runs already")
	}
	kubeconfig, err := v.n.c.Kubeconfig(vrkubeUser)
	if err != nil {
		return err
	}
	args := []string{filepath.Join(v.n.c.o.Programs, "vrkube"), "run", "--node", v.n.Name, "--kubeconfig", kubeconfig, "--agent", v.socket(),
		"--uplink", "eth0", "--external-ips", "--metrics", "unix:" + filepath.Join(v.n.dir, "vrkube.sock")}
	if v.n.c.o.Proxy != "" {
		// No address of the node is in these: kube-proxy in the node's kernel has the node ports.
		args = append(args, "--node-port-addresses", "127.0.0.0/8,::1/128")
	}
	v.Kube, err = process.Start(v.n.Namespace, filepath.Join(v.n.dir, "vrkube.log"), nil, args...)
	return err
}

// StopAgent ends vrouter by a signal; one that does not run is no error.
func (v *VRouterNode) StopAgent(signal syscall.Signal) error { return stop(&v.Run, signal) }

// StopKube ends vrkube by a signal; one that does not run is no error.
func (v *VRouterNode) StopKube(signal syscall.Signal) error { return stop(&v.Kube, signal) }

// Failed returns what to say where a program has ended that should run.
func (v *VRouterNode) Failed() error {
	var failed error
	for _, p := range []*process.Process{v.Run, v.Kube} {
		if p != nil {
			failed = errors.Join(failed, p.Failed())
		}
	}
	return failed
}

// stop ends a program; that it has ended by itself before is an error.
func stop(p **process.Process, signal syscall.Signal) error {
	if *p == nil {
		return nil
	}
	program := *p
	*p = nil
	if err := program.Failed(); err != nil {
		return err
	}
	return program.Stop(signal, patience)
}

// cni is the network configuration list that a node with our dataplane has.
func (v *VRouterNode) cni() []byte {
	b, err := json.Marshal(map[string]any{"cniVersion": "1.1.0", "name": "vrouter", "plugins": []any{
		map[string]any{"type": "vrouter-cni", "agent": v.socket(), "capabilities": map[string]bool{"portMappings": true, "ips": true, "mac": true}},
	}})
	if err != nil {
		panic(err) // texts and booleans always have a JSON form
	}
	return b
}
