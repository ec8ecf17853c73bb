//go:build linux

package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/internal/figure"
)

// The cluster's objects.
const (
	shop      = "shop"
	benchNode = "bench" // the Node that vrkube works for
)

// measureCluster measures vrkube itself against a real apiserver: from its start to
// when the packet path has the cluster, its memory, and how long the change of an
// EndpointSlice takes, as its own histogram tells.
func measureCluster(ctx context.Context, b *bench) (err error) {
	if b.Kubeconfig == "" {
		b.Log("*** SKIPPED: vrkube against an apiserver: give --kubeconfig of one that may be filled")
		return nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", b.Kubeconfig)
	if err != nil {
		return err
	}
	config = model.ClientConfig(config)
	config.QPS = -1 // as fast as the apiserver takes it
	cluster, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := fillCluster(ctx, cluster, clusterNodes, b.services); err != nil {
		return fmt.Errorf("fill the cluster: %w", err)
	}
	b.Log("the cluster was filled in %s", time.Since(began).Round(time.Second))
	w, err := b.clusterWorld(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var cold []float64
	var k *vrkube
	defer func() { err = errors.Join(err, k.stop()) }()
	for range b.restarts {
		if err := errors.Join(k.stop(), w.cycle(ctx, nil, nil)); err != nil { // nothing of the former round is left
			return err
		}
		began := time.Now()
		if k, err = b.startVrkube(ctx, w); err != nil {
			return err
		}
		cold = append(cold, milliseconds(time.Since(began)))
	}
	m, err := scrape(ctx, k.socket)
	if err != nil {
		return err
	}
	size := fmt.Sprintf("%d-services-of-%d", b.services, clusterMembers)
	b.add(figure.New("kube/cluster/cold-start/"+size, "ms", cold, figure.AtMost("ours", 5000)), nil)
	b.add(figure.New("kube/memory/vrkube/"+size, "MB", []float64{m["process_resident_memory_bytes"] / 1e6}, nil),
		map[string]float64{"heap": m["go_memstats_heap_alloc_bytes"] / 1e6})
	if err := b.changeSlices(ctx, cluster); err != nil {
		return err
	}
	if m, err = scrape(ctx, k.socket); err != nil {
		return err
	}
	const latency = "vrkube_network_programming_duration_seconds"
	f := figure.New("kube/cluster/change-p99", "ms", []float64{1000 * bucketQuantile(m, latency, 0.99)}, figure.AtMost("ours", 50))
	f.Runs = int(m[latency+"_count"])
	b.add(f, map[string]float64{"p50": 1000 * bucketQuantile(m, latency, 0.5), "mean": 1000 * m[latency+"_sum"] / max(1, m[latency+"_count"])})
	return nil
}

// fillCluster makes other nodes and ours, services and their EndpointSlices. What is
// there already stays.
func fillCluster(ctx context.Context, cluster kubernetes.Interface, nodes, services int) error {
	if _, err := cluster.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: shop}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	g.Go(func() error { return makeNode(ctx, cluster, clusterNodes) })
	for i := range nodes {
		g.Go(func() error { return makeNode(ctx, cluster, i) })
	}
	for i := range services {
		g.Go(func() error { return makeService(ctx, cluster, i+1) })
	}
	return g.Wait()
}

// makeNode makes a node; the last one is ours.
func makeNode(ctx context.Context, cluster kubernetes.Interface, i int) error {
	cidr, address, name := fmt.Sprintf("10.%d.%d.0/24", 128+i>>8, i&0xff), nodeAddress(i), nodeName(i)
	if i == clusterNodes {
		cidr, address = "10.200.0.0/24", "192.0.2.10"
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}}}
	made, err := cluster.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	made.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	_, err = cluster.CoreV1().Nodes().UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

func nodeName(i int) string {
	if i == clusterNodes {
		return benchNode
	}
	return fmt.Sprintf("node-%d", i)
}

func nodeAddress(i int) string { return fmt.Sprintf("198.18.%d.%d", i/250, i%250+1) }

// makeService makes a service and its endpoints on other nodes.
func makeService(ctx context.Context, cluster kubernetes.Interface, i int) error {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: serviceName(i), Namespace: shop}, Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{
			{Name: "http", Port: servicePort, TargetPort: intstr.FromInt32(targetPort), Protocol: corev1.ProtocolTCP},
			{Name: "https", Port: 443, TargetPort: intstr.FromInt32(8443), Protocol: corev1.ProtocolTCP},
		},
	}}
	if _, err := cluster.CoreV1().Services(shop).Create(ctx, svc, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, err := cluster.DiscoveryV1().EndpointSlices(shop).Create(ctx, clusterSlice(i, 0), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// clusterSlice is the EndpointSlice of a service; turn chooses its last endpoint.
func clusterSlice(i, turn int) *discoveryv1.EndpointSlice {
	ready := true
	port := func(name string, number int32) discoveryv1.EndpointPort {
		tcp := corev1.ProtocolTCP
		return discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &tcp}
	}
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: serviceName(i) + "-1", Namespace: shop, Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(i)}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{port("http", targetPort), port("https", 8443)},
	}
	for m := range clusterMembers {
		node := (i + 37*m) % clusterNodes
		host := 2 + (i+m)%250
		if m == clusterMembers-1 {
			host = 2 + (i+m+turn)%250
		}
		name := nodeName(node)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 128+node>>8, node&0xff, host)}, NodeName: &name,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
		})
	}
	return s
}

// changeSlices moves an endpoint 20 times a second, each time of another service,
// and waits until the last change is old.
func (b *bench) changeSlices(ctx context.Context, cluster kubernetes.Interface) error {
	tick := time.NewTicker(kubeGap)
	defer tick.Stop()
	for i := range b.changes {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		s := clusterSlice(1+i%b.services, 1+i)
		s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().UTC().Format(time.RFC3339Nano)}
		if _, err := cluster.DiscoveryV1().EndpointSlices(shop).Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second):
		return nil
	}
}

// vrkube is the process under test.
type vrkube struct {
	cmd    *exec.Cmd
	socket string // of its metrics
}

// startVrkube starts it and returns when it is ready.
func (b *bench) startVrkube(ctx context.Context, w *world) (*vrkube, error) {
	k := &vrkube{socket: filepath.Join(w.dir, "vrkube.sock")}
	log, err := os.OpenFile(filepath.Join(w.dir, "vrkube.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	k.cmd = exec.Command(b.Vrkube, "run", "--node", benchNode, "--kubeconfig", b.Kubeconfig, "--agent", w.socket(), "--metrics", "unix:"+k.socket, "--overlay")
	k.cmd.Stdout, k.cmd.Stderr = log, log
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	probe := http.Client{Transport: unixTransport(k.socket)}
	for deadline := time.Now().Add(4 * patience); ; time.Sleep(2 * time.Millisecond) {
		if answer, err := probe.Get("http://vrkube/readyz"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return k, nil
			}
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name()) // for the message only
			return nil, errors.Join(ctx.Err(), k.stop(), fmt.Errorf("vrkube is not ready\n%s", text[max(0, len(text)-2000):]))
		}
	}
}

// stop ends the process. A nil one has ended.
func (k *vrkube) stop() error {
	if k == nil || k.cmd.ProcessState != nil {
		return nil
	}
	if err := k.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	return k.cmd.Wait()
}

// bucketQuantile is the upper end of the bucket of a histogram that holds a quantile.
func bucketQuantile(metrics map[string]float64, name string, q float64) float64 {
	type bucket struct{ most, count float64 }
	var list []bucket
	for key, count := range metrics {
		text, ok := strings.CutPrefix(key, name+`_bucket{le="`)
		if most, err := strconv.ParseFloat(strings.TrimSuffix(text, `"}`), 64); ok && err == nil {
			list = append(list, bucket{most, count})
		}
	}
	slices.SortFunc(list, func(a, b bucket) int {
		if a.most < b.most {
			return -1
		}
		return 1
	})
	for _, x := range list {
		if x.count >= q*metrics[name+"_count"] {
			return x.most
		}
	}
	return 0
}
