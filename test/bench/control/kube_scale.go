//go:build linux

package control

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/internal/figure"
	"github.com/vrouter-go/vrouter/internal/netns"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
	kubecontrol "github.com/vrouter-go/vrouter/test/kube/control"
	"github.com/vrouter-go/vrouter/test/kube/kubeproxy"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// apiserver is a real one, with etcd, and what it was filled with.
type apiserver struct {
	*contents
	plane  *kubecontrol.Plane
	client kubernetes.Interface
	space  string // network namespace
	filled time.Duration
}

// clusterOutcome is what was measured of one dataplane: milliseconds, sorted, and details.
type clusterOutcome struct {
	cold   []float64 // from the start of the process
	change []float64 // from the request that changes a slice to the first packet at the new pod
	seen   []float64 // the same from the apiserver's answer
	detail map[string]float64
	memory float64 // MB resident in all
}

// measureCluster measures vrkube with its agent and kube-proxy on the same apiserver:
// from the start to when the packet path has the cluster, their memory, and how long the
// change of an EndpointSlice takes to reach packets.
func measureCluster(ctx context.Context, b *bench) (err error) {
	if _, err := exec.LookPath("etcd"); err != nil || b.KubeBinaries == "" {
		b.Log("*** SKIPPED: vrkube and kube-proxy on an apiserver: needs etcd (test/deps-kube.sh) and what test/kube/binaries.sh builds")
		return nil
	}
	peer, err := kernelNode()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, peer.close()) }()
	s, err := b.startCluster(ctx, peer.space("plane"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.plane.Close()) }()
	ours, err := b.clusterOurs(ctx, s)
	if err != nil {
		return fmt.Errorf("vrkube: %w", err)
	}
	theirs, err := b.clusterProxy(ctx, s, peer)
	if err != nil {
		b.Log("*** kube-proxy was not measured: %v", err)
		theirs = &clusterOutcome{}
	}
	b.addCluster(s, ours, theirs)
	return nil
}

// addCluster takes up the figures of both.
func (b *bench) addCluster(s *apiserver, ours, theirs *clusterOutcome) {
	against := func(name, unit string, mine, others []float64, bar *figure.Bar) figure.Figure {
		if len(others) == 0 {
			return figure.New(name, unit, mine, bar)
		}
		return figure.Against(name, unit, mine, "kube-proxy", others, bar)
	}
	size := fmt.Sprintf("%d-services-of-%d", s.services, clusterMembers)
	detail := ours.detail
	for name, v := range theirs.detail {
		detail["kube-proxy/"+name] = v
	}
	detail["fill-s"] = s.filled.Seconds()
	b.add(against("kube/cluster/cold-start/"+size, "ms", ours.cold, theirs.cold, figure.AtMost("ours", 5000)), detail)
	var memory []float64
	if theirs.memory > 0 {
		memory = []float64{theirs.memory}
	}
	b.add(against("kube/cluster/memory/"+size, "MB", []float64{ours.memory}, memory, nil), nil)
	for _, q := range []struct {
		name string
		q    float64
		bar  *figure.Bar
	}{{"p50", 0.5, nil}, {"p99", 0.99, figure.AtMost("ours", 50)}} {
		var others []float64
		if len(theirs.change) > 0 {
			others = []float64{quantile(theirs.change, q.q)}
		}
		f := against("kube/cluster/change-first-packet-"+q.name+"/"+size, "ms", []float64{quantile(ours.change, q.q)}, others, q.bar)
		f.Spread, f.Runs = [2]float64{ours.change[0], ours.change[len(ours.change)-1]}, len(ours.change)
		d := map[string]float64{"from-answer": quantile(ours.seen, q.q)}
		if len(others) > 0 {
			f.PeerSpread = [2]float64{theirs.change[0], theirs.change[len(theirs.change)-1]}
			d["kube-proxy/from-answer"], d["kube-proxy/changes"] = quantile(theirs.seen, q.q), float64(len(theirs.change))
		}
		b.add(f, d)
	}
}

// startCluster starts an apiserver and fills it.
func (b *bench) startCluster(ctx context.Context, space string) (*apiserver, error) {
	plane, err := kubecontrol.Start(ctx, kubecontrol.Options{
		Namespace: space, Dir: filepath.Join(b.dir, "plane"), Binaries: b.KubeBinaries, Address: netip.MustParseAddr("192.0.2.1"),
		Services: "10.96.0.0/12", Pods: "10.128.0.0/9", Bare: true, Users: []string{kubeproxy.User},
	})
	if err != nil {
		return nil, err
	}
	s := &apiserver{plane: plane, space: space}
	config, err := plane.Config(kubecontrol.Admin)
	if err == nil {
		s.client, err = kubernetes.NewForConfig(model.ClientConfig(config))
	}
	began := time.Now()
	if err == nil {
		s.contents, err = fillCluster(ctx, s.client, min(clusterNodes, b.cluster), b.cluster)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fill the cluster: %w", err), plane.Close())
	}
	s.filled = time.Since(began)
	b.Log("the cluster was filled in %s", s.filled.Round(time.Second))
	return s, nil
}

// clusterOurs measures vrkube and vrouter.
func (b *bench) clusterOurs(ctx context.Context, s *apiserver) (_ *clusterOutcome, err error) {
	w, err := b.emptyWorld(ctx, "v", tableSize(b.sessions), "node", "client", "a", "b")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.uplink(ctx); err != nil {
		return nil, err
	}
	var k *process.Process
	defer func() {
		if k != nil {
			err = errors.Join(err, k.Stop(syscall.SIGTERM, patience))
		}
	}()
	o := &clusterOutcome{detail: map[string]float64{}}
	socket := filepath.Join(w.dir, "vrkube.sock")
	for range min(b.restarts, 3) {
		if k != nil { // nothing of the former round is left
			if err := errors.Join(k.Stop(syscall.SIGTERM, patience), w.cycle(ctx, nil, nil)); err != nil {
				return nil, err
			}
		}
		before := usage(w.cmd.Process.Pid)
		began := time.Now()
		if k, err = b.startVrkube(ctx, s, w, socket); err != nil {
			return nil, err
		}
		o.cold = append(o.cold, milliseconds(time.Since(began)))
		o.detail["cold-cpu-s/vrkube"], o.detail["cold-cpu-s/vrouter"] = usage(k.PID()).cpu, usage(w.cmd.Process.Pid).cpu-before.cpu
	}
	for name, address := range map[string]string{"client": podClient, "a": podA, "b": podB} {
		if _, err := w.api.Attach(ctx, &pb.AttachRequest{
			Name: model.ResourceName(shop, name), Uid: string(s.own[name]), ContainerId: "container-" + name,
			Netns: netns.Path(w.space(name)), GuestName: "eth0", Addresses: []string{address},
		}); err != nil {
			return nil, fmt.Errorf("attach %s: %w", name, err)
		}
	}
	if err := w.ready(ctx); err != nil {
		return nil, err
	}
	if err := w.openAt(podClient, podA, podB); err != nil {
		return nil, err
	}
	if err := b.moveEndpoints(ctx, s, w, o, map[string]int{"vrkube": k.PID(), "vrouter": w.cmd.Process.Pid}); err != nil {
		return nil, err
	}
	m, err := scrape(ctx, socket)
	if err != nil {
		return nil, err
	}
	const latency = "vrkube_network_programming_duration_seconds"
	o.detail["vrkube-p50-at-most"], o.detail["vrkube-p99-at-most"] = 1000*bucketQuantile(m, latency, 0.5), 1000*bucketQuantile(m, latency, 0.99)
	o.detail["heap-MB/vrkube"] = m["go_memstats_heap_alloc_bytes"] / 1e6
	return o, nil
}

// startVrkube starts it beside the apiserver and returns when it is ready: the agent has
// programmed all that the cluster says.
func (b *bench) startVrkube(ctx context.Context, s *apiserver, w *world, socket string) (*process.Process, error) {
	kubeconfig, err := s.plane.Kubeconfig(kubecontrol.Admin)
	if err != nil {
		return nil, err
	}
	k, err := process.Start(s.space, filepath.Join(w.dir, "vrkube.log"), nil, b.Vrkube, "run", "--node", benchNode,
		"--kubeconfig", kubeconfig, "--agent", w.socket(), "--metrics", "unix:"+socket, "--overlay")
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(4 * patience); ; time.Sleep(5 * time.Millisecond) {
		if isReady(socket) {
			return k, nil
		}
		if err := errors.Join(ctx.Err(), k.Failed()); err != nil || time.Now().After(deadline) {
			return nil, errors.Join(err, fmt.Errorf("vrkube is not ready\n%s", k.Tail()), k.Stop(syscall.SIGKILL, patience))
		}
	}
}

// moveEndpoints changes EndpointSlices 20 times a second: in turn one of the services
// that nobody sends to, and the probe's, to and fro between two pods. While a change of
// the probe has not reached the packets, others are changed in its place.
func (b *bench) moveEndpoints(ctx context.Context, s *apiserver, w *world, o *clusterOutcome, pids map[string]int) error {
	x := w.begin(source{rate: 1000, ports: 60_000, to: s.address, nice: -10})
	err := w.flowing(ctx, x)
	before := map[string]consumption{}
	for name, pid := range pids {
		before[name] = usage(pid)
	}
	began := time.Now()
	if err == nil {
		err = b.toAndFro(ctx, s, w, o)
	}
	took := time.Since(began).Seconds()
	for name, pid := range pids {
		u := usage(pid)
		o.detail["change-cpu-share/"+name] = (u.cpu - before[name].cpu) / took
		o.detail["resident-MB/"+name], o.detail["resident-peak-MB/"+name] = u.resident, u.peak
		o.memory += u.resident
	}
	slices.Sort(o.change)
	slices.Sort(o.seen)
	o.detail["packets-sent"], o.detail["packets-back"] = float64(x.sent.Load()), float64(x.back.Load())
	if err = errors.Join(err, x.end()); err == nil && len(o.change) == 0 {
		err = errors.New("no change reached the packets")
	}
	return err
}

func (b *bench) toAndFro(ctx context.Context, s *apiserver, w *world, o *clusterOutcome) error {
	members := []struct {
		name string
		*listener
	}{{"a", w.a}, {"b", w.b}}
	at, waits := 0, false
	var asked, answered time.Time
	tick := time.NewTicker(kubeGap)
	defer tick.Stop()
	for i := range int(b.clusterPhase / kubeGap) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if waits {
			select {
			case seen := <-members[at].alarm:
				o.change = append(o.change, float64(seen-asked.UnixNano())/1e6)
				o.seen = append(o.seen, float64(seen-answered.UnixNano())/1e6)
				waits = false
			default:
			}
		}
		slice := s.slice(i%s.services, 1+i)
		if i%2 == 0 && !waits {
			at, waits = 1-at, true
			slice = s.probeSlice(members[at].name)
			asked = time.Unix(0, members[at].arm())
		}
		slice.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().UTC().Format(time.RFC3339Nano)}
		if _, err := s.client.DiscoveryV1().EndpointSlices(shop).Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
			return err
		}
		if slice.Labels["kubernetes.io/service-name"] == probe {
			answered = time.Now()
		}
	}
	_, err := s.client.DiscoveryV1().EndpointSlices(shop).Update(ctx, s.probeSlice("a"), metav1.UpdateOptions{}) // as it was
	return err
}
