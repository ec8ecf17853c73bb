//go:build linux

package control

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

// The cluster's objects.
const (
	shop      = "shop"
	benchNode = "bench" // the Node that vrkube and kube-proxy work for
	nodeIP    = "192.0.2.10"
	// probe is the service that packets go to, over UDP.
	probe = "probe"
	// The pods of our own node.
	podClient, podA, podB = "10.200.0.5", "10.200.0.11", "10.200.0.12"
)

// contents are the objects that a cluster was filled with, as far as changes need them.
type contents struct {
	services int
	uids     []types.UID          // of the other nodes' pods, by number
	own      map[string]types.UID // of our node's, by name
	address  [4]byte              // of the probe's service
}

// fillCluster makes nodes, services, as many pods on the other nodes, each of which is a
// member of ten services, and the EndpointSlices. What is there already stays.
func fillCluster(ctx context.Context, cluster kubernetes.Interface, nodes, services int) (*contents, error) {
	c := &contents{services: services, uids: make([]types.UID, services), own: map[string]types.UID{}}
	if err := missing(cluster.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: shop}}, metav1.CreateOptions{})); err != nil {
		return nil, err
	}
	err := together(ctx, nodes+1, func(ctx context.Context, i int) error {
		if i == nodes {
			i = clusterNodes
		}
		return makeNode(ctx, cluster, i)
	})
	if err != nil {
		return nil, err
	}
	err = together(ctx, services, func(ctx context.Context, i int) (err error) {
		node, address := podPlace(i)
		c.uids[i], err = makePod(ctx, cluster, podName(i), nodeName(node), address)
		return err
	})
	if err != nil {
		return nil, err
	}
	for name, address := range map[string]string{"client": podClient, "a": podA, "b": podB} {
		if c.own[name], err = makePod(ctx, cluster, name, benchNode, address); err != nil {
			return nil, err
		}
	}
	err = together(ctx, services, func(ctx context.Context, i int) error {
		if err := makeService(ctx, cluster, serviceName(i), serviceAddress(i), corev1.ProtocolTCP, corev1.ProtocolTCP); err != nil {
			return err
		}
		return missing(cluster.DiscoveryV1().EndpointSlices(shop).Create(ctx, c.slice(i, 0), metav1.CreateOptions{}))
	})
	if err != nil {
		return nil, err
	}
	c.address = serviceAddress(services)
	if err := makeService(ctx, cluster, probe, c.address, corev1.ProtocolUDP); err != nil {
		return nil, err
	}
	return c, missing(cluster.DiscoveryV1().EndpointSlices(shop).Create(ctx, c.probeSlice("a"), metav1.CreateOptions{}))
}

// missing returns why an object could not be made; that it is there is well.
func missing[T any](_ T, err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// together does n things, some at a time.
func together(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// makeNode makes a node; the last one is ours.
func makeNode(ctx context.Context, cluster kubernetes.Interface, i int) error {
	cidr, address, name := fmt.Sprintf("10.%d.%d.0/24", 128+i>>8, i&0xff), nodeAddress(i), nodeName(i)
	if i == clusterNodes {
		cidr, address = "10.200.0.0/24", nodeIP
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

func podName(i int) string { return fmt.Sprintf("pod-%d", i) }

// podPlace is the node and the address of the i-th pod.
func podPlace(i int) (node int, address string) {
	node = i % clusterNodes
	return node, fmt.Sprintf("10.%d.%d.%d", 128+node>>8, node&0xff, 2+i/clusterNodes)
}

// makePod makes a pod that runs.
func makePod(ctx context.Context, cluster kubernetes.Interface, name, node, address string) (types.UID, error) {
	pods := cluster.CoreV1().Pods(shop)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: shop, Labels: map[string]string{"app": shop}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "registry.example/main:1"}}},
	}
	made, err := pods.Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		made, err = pods.Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return "", err
	}
	made.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}}
	_, err = pods.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return made.UID, err
}

// makeService makes a service with one port, or two. Its address is given: the
// apiserver takes ever longer to find a free one.
func makeService(ctx context.Context, cluster kubernetes.Interface, name string, address [4]byte, protocols ...corev1.Protocol) error {
	ports := []corev1.ServicePort{
		{Name: "http", Port: servicePort, TargetPort: intstr.FromInt32(targetPort)}, {Name: "https", Port: 443, TargetPort: intstr.FromInt32(8443)},
	}[:len(protocols)]
	for i, p := range protocols {
		ports[i].Protocol = p
	}
	spec := corev1.ServiceSpec{ClusterIP: netip.AddrFrom4(address).String(), Ports: ports}
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: shop}, Spec: spec}
	return missing(cluster.CoreV1().Services(shop).Create(ctx, svc, metav1.CreateOptions{}))
}

// newSlice is an EndpointSlice of a service without endpoints.
func newSlice(service string, protocols ...corev1.Protocol) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service + "-1", Namespace: shop, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for i, p := range protocols {
		name, number := []string{"http", "https"}[i], []int32{targetPort, 8443}[i]
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &p})
	}
	return s
}

func endpoint(pod string, uid types.UID, node, address string) discoveryv1.Endpoint {
	ready := true
	return discoveryv1.Endpoint{
		Addresses: []string{address}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: shop, Name: pod, UID: uid},
	}
}

// slice is the EndpointSlice of a service; turn chooses its last endpoint.
func (c *contents) slice(i, turn int) *discoveryv1.EndpointSlice {
	s := newSlice(serviceName(i), corev1.ProtocolTCP, corev1.ProtocolTCP)
	for m := range clusterMembers {
		n := (i + m) % c.services
		if m == clusterMembers-1 {
			n = (i + m + turn%(c.services-clusterMembers)) % c.services
		}
		node, address := podPlace(n)
		s.Endpoints = append(s.Endpoints, endpoint(podName(n), c.uids[n], nodeName(node), address))
	}
	return s
}

// probeSlice is that of the probe's service, with one of our node's pods.
func (c *contents) probeSlice(pod string) *discoveryv1.EndpointSlice {
	s := newSlice(probe, corev1.ProtocolUDP)
	s.Endpoints = []discoveryv1.Endpoint{endpoint(pod, c.own[pod], benchNode, map[string]string{"a": podA, "b": podB}[pod])}
	return s
}
