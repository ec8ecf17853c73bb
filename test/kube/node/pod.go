//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// pod is one pod on this node, from its binding to its end. Its fields above mu are for
// the goroutine that runs it.
type pod struct {
	k      *Kubelet
	object *corev1.Pod // as it was when it came: what is used of it cannot change
	dir    string

	containers []*process.Process // by their place in the spec
	restarts   []int32
	status     corev1.PodStatus // what the apiserver was told last

	ending chan struct{} // closed when the pod shall end
	once   sync.Once
	grace  time.Duration // valid once ending is closed

	mu    sync.Mutex
	ns    string // network namespace; "" until there is one
	ips   []netip.Addr
	added bool // CNI ADD was called for ns
}

func newPod(k *Kubelet, object *corev1.Pod) *pod {
	return &pod{
		k: k, object: object, ending: make(chan struct{}),
		dir:        filepath.Join(k.Dir, "pods", object.Namespace+"_"+object.Name+"_"+string(object.UID)),
		containers: make([]*process.Process, len(object.Spec.Containers)), restarts: make([]int32, len(object.Spec.Containers)),
	}
}

// end asks the pod to end, with what is left of its grace period.
func (p *pod) end(grace time.Duration) {
	p.once.Do(func() {
		p.grace = grace
		close(p.ending)
	})
}

func (p *pod) network() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ns, p.ns != "" && len(p.ips) > 0
}

// log adds a line to the pod's own log, beside those of its containers.
func (p *pod) log(format string, args ...any) {
	f, err := os.OpenFile(filepath.Join(p.dir, "kubelet.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return // the test's directory is gone
	}
	defer f.Close()
	fmt.Fprintf(f, time.Now().Format(time.StampMilli)+" "+format+"\n", args...)
}

// run runs the pod until it has ended, and says whether it did so because it was deleted.
func (p *pod) run(ctx context.Context) (deleted bool) {
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return false
	}
	if !p.connect(ctx) {
		return ctx.Err() == nil
	}
	for i := range p.containers {
		p.start(i)
	}
	ready := make(chan bool)
	probing, stop := context.WithCancel(ctx)
	var probes sync.WaitGroup
	probes.Go(func() { p.probe(probing, ready) })
	defer probes.Wait()
	defer stop()
	p.report(corev1.PodRunning, false)
	isReady, over := false, false
	for !over {
		select {
		case <-ctx.Done():
			return false
		case <-p.ending:
			over = true
		case isReady = <-ready:
			p.report(corev1.PodRunning, isReady)
		case <-time.After(100 * time.Millisecond):
			if phase := p.revive(); phase != corev1.PodRunning {
				stop()
				p.report(phase, false)
				return false
			}
		}
	}
	p.farewell(ctx, ready)
	stop()
	p.report(corev1.PodRunning, false)
	return ctx.Err() == nil
}

// connect gives the pod its network, trying until it works, and says whether it did.
func (p *pod) connect(ctx context.Context) bool {
	for {
		err := p.attach(ctx)
		if err == nil {
			return true
		}
		p.log("network: %v", err)
		if err := p.wipe(); err != nil {
			p.log("network: %v", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-p.ending:
			return false
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// start starts a container as a process in the pod's network namespace.
func (p *pod) start(i int) {
	c := p.object.Spec.Containers[i]
	args := append(append([]string{}, c.Command...), c.Args...)
	if len(args) == 0 {
		args = []string{"sleep", "infinity"}
	}
	if program := filepath.Join(p.k.Programs, args[0]); !filepath.IsAbs(args[0]) {
		if _, err := os.Stat(program); err == nil {
			args[0] = program
		}
	}
	env := []string{"POD_NAME=" + p.object.Name, "POD_NAMESPACE=" + p.object.Namespace, "NODE_NAME=" + p.k.Name, "POD_IP=" + p.ips[0].String()}
	for _, e := range c.Env {
		env = append(env, e.Name+"="+e.Value)
	}
	run, err := process.Start(p.ns, filepath.Join(p.dir, c.Name+".log"), env, args...)
	if err != nil {
		p.log("container %s: %v", c.Name, err)
		return
	}
	p.containers[i] = run
}

// revive starts containers again that have ended, as the restart policy has it, and
// returns the pod's phase.
func (p *pod) revive() corev1.PodPhase {
	ended, failed := 0, 0
	for i, run := range p.containers {
		if run != nil {
			select {
			case <-run.Ended():
			default:
				continue
			}
		}
		code := -1
		if run != nil {
			code = run.ExitCode()
		}
		policy := p.object.Spec.RestartPolicy
		if policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && code != 0 {
			p.log("container %s ended with %d and is started again", p.object.Spec.Containers[i].Name, code)
			p.restarts[i]++
			p.start(i)
			continue
		}
		ended++
		if code != 0 {
			failed++
		}
	}
	switch {
	case ended < len(p.containers):
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	default:
		return corev1.PodSucceeded
	}
}

// farewell ends the containers: preStop, SIGTERM, and SIGKILL when the grace period is
// over. Readiness is still asked and told meanwhile, as a kubelet does: it is what makes an
// endpoint serving while it terminates.
func (p *pod) farewell(ctx context.Context, ready <-chan bool) {
	done := make(chan struct{})
	deadline := time.Now().Add(p.grace)
	go func() {
		defer close(done)
		var all sync.WaitGroup
		for i, run := range p.containers {
			if run == nil {
				continue
			}
			all.Go(func() {
				if hook := p.object.Spec.Containers[i].Lifecycle; hook != nil && hook.PreStop != nil && hook.PreStop.Sleep != nil {
					pause := min(time.Duration(hook.PreStop.Sleep.Seconds)*time.Second, time.Until(deadline))
					select {
					case <-ctx.Done():
					case <-time.After(pause):
					}
				}
				p.stop(ctx, run, max(time.Until(deadline), 0))
			})
		}
		all.Wait()
	}()
	for {
		select {
		case <-done:
			return
		case isReady := <-ready:
			p.report(corev1.PodRunning, isReady)
		}
	}
}

// stop asks a container to end and makes it when grace is over or the kubelet closes.
func (p *pod) stop(ctx context.Context, run *process.Process, grace time.Duration) {
	if err := run.Signal(syscall.SIGTERM); err != nil {
		p.log("SIGTERM: %v", err)
	}
	select {
	case <-run.Ended():
	case <-time.After(grace):
	case <-ctx.Done():
	}
	if err := run.Stop(syscall.SIGKILL, time.Minute); err != nil {
		p.log("SIGKILL: %v", err)
	}
}

// wipe removes what is left of the pod: processes, its place in the network, its
// namespace. It may be called again.
func (p *pod) wipe() error {
	var err error
	for _, run := range p.containers {
		if run != nil {
			err = errors.Join(err, run.Stop(syscall.SIGKILL, time.Minute))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.object.Spec.HostNetwork || p.ns == "" {
		p.ns, p.ips = "", nil
		return err
	}
	if p.added {
		if derr := p.detach(); derr != nil {
			return errors.Join(err, derr)
		}
		p.added = false
	}
	if derr := netns.Delete(p.ns); derr != nil {
		return errors.Join(err, derr)
	}
	p.ns, p.ips = "", nil
	return err
}
