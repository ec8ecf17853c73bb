//go:build linux && kube

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
)

// patience is how long a test waits for a condition.
const patience = 30 * time.Second

// world is a cluster with a Kubernetes namespace for one test.
type world struct {
	*cluster.Cluster
	t         *testing.T
	namespace string
}

// in makes a Kubernetes namespace for a test.
func in(t *testing.T, c *cluster.Cluster, namespace string) *world {
	t.Helper()
	return space(t, c, metav1.ObjectMeta{Name: namespace})
}

// isolated makes one whose pods have networks of their own.
func isolated(t *testing.T, c *cluster.Cluster, namespace string) *world {
	t.Helper()
	return space(t, c, metav1.ObjectMeta{Name: namespace, Annotations: map[string]string{"vrouter.io/isolation": "true"}})
}

func space(t *testing.T, c *cluster.Cluster, meta metav1.ObjectMeta) *world {
	t.Helper()
	w := &world{Cluster: c, t: t, namespace: meta.Name}
	_, err := c.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: meta}, metav1.CreateOptions{})
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// until waits for a condition.
func (w *world) until(what string, ask func(context.Context) error) {
	w.t.Helper()
	if err := cluster.Until(w.t.Context(), patience, what, ask); err != nil {
		w.t.Fatal(errors.Join(err, w.Failed()))
	}
}

// The workload's ports.
const (
	echoPort  = 8080 // TCP and UDP
	webPort   = 8081 // HTTP, which the callers of the tests do not speak
	otherPort = 8082 // TCP
)

// podSpec is a pod that runs the workload; it is ready when its node reaches it, and goes
// on serving for a while when it shall end, as a server does that drains: longer than
// vrkube takes to start on a busy machine, so that no test asks how fast that is.
func podSpec(node string) corev1.PodSpec {
	grace := int64(20)
	spec := corev1.PodSpec{
		TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name: "server", Image: "workload",
			Command: []string{"workload", "--tcp", fmt.Sprintf("%d,%d", echoPort, otherPort), "--udp", fmt.Sprint(echoPort), "--http", fmt.Sprint(webPort), "--drain", "6s"},
			Ports: []corev1.ContainerPort{
				{Name: "echo", ContainerPort: echoPort}, {Name: "echo-udp", ContainerPort: echoPort, Protocol: corev1.ProtocolUDP},
				{Name: "web", ContainerPort: webPort},
			},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("echo")}},
				PeriodSeconds: 1,
			},
		}},
	}
	if node != "" {
		spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	}
	return spec
}

// pod makes a pod with labels on a node ("": any) and returns when it is ready.
func (w *world) pod(name, node string, labels map[string]string) *corev1.Pod {
	w.t.Helper()
	w.createPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: podSpec(node)})
	return w.ready(name)
}

func (w *world) createPod(p *corev1.Pod) {
	w.t.Helper()
	_, err := w.Client().CoreV1().Pods(w.namespace).Create(w.t.Context(), p, metav1.CreateOptions{})
	w.must(err)
}

// ready waits until a pod is.
func (w *world) ready(name string) (pod *corev1.Pod) {
	w.t.Helper()
	w.until("pod "+name+" is ready", func(ctx context.Context) (err error) {
		if pod, err = w.Client().CoreV1().Pods(w.namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("its status is %v", pod.Status.Conditions)
	})
	return pod
}

// network returns the network namespace of a pod.
func (w *world) network(pod string) string {
	w.t.Helper()
	ns, err := w.PodNetwork(w.t.Context(), w.namespace, pod)
	w.must(err)
	return ns
}

// deploy makes a Deployment of the workload with the label app.
func (w *world) deploy(name string, replicas int32, spec corev1.PodSpec) *appsv1.Deployment {
	w.t.Helper()
	labels := map[string]string{"app": name}
	d, err := w.Client().AppsV1().Deployments(w.namespace).Create(w.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	return d
}

// deployed waits until a Deployment has all its pods, of its newest template, ready.
func (w *world) deployed(name string) {
	w.t.Helper()
	w.until("deployment "+name+" is complete", func(ctx context.Context) error {
		d, err := w.Client().AppsV1().Deployments(w.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s, want := d.Status, *d.Spec.Replicas
		if s.ObservedGeneration < d.Generation || s.UpdatedReplicas != want || s.Replicas != want || s.AvailableReplicas != want {
			return fmt.Errorf("want %d of generation %d: %+v", want, d.Generation, s)
		}
		return nil
	})
}

// expose makes a dual-stack Service with port 80 for TCP and UDP, for pods with labels.
func (w *world) expose(name string, kind corev1.ServiceType, selector map[string]string, change func(*corev1.Service)) *corev1.Service {
	w.t.Helper()
	policy := corev1.IPFamilyPolicyRequireDualStack
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Type: kind, Selector: selector, IPFamilyPolicy: &policy, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		Ports: []corev1.ServicePort{
			{Name: "tcp", Port: 80, TargetPort: intstr.FromString("echo"), Protocol: corev1.ProtocolTCP},
			{Name: "udp", Port: 80, TargetPort: intstr.FromString("echo-udp"), Protocol: corev1.ProtocolUDP},
		},
	}}
	if change != nil {
		change(s)
	}
	made, err := w.Client().CoreV1().Services(w.namespace).Create(w.t.Context(), s, metav1.CreateOptions{})
	w.must(err)
	return made
}

// clusterIPs returns where a Service's port 80 is.
func clusterIPs(s *corev1.Service) (list []netip.AddrPort) {
	for _, ip := range s.Spec.ClusterIPs {
		list = append(list, netip.AddrPortFrom(netip.MustParseAddr(ip), 80))
	}
	return list
}

// podAt returns where a pod's port is, in both families.
func podAt(p *corev1.Pod, port uint16) (list []netip.AddrPort) {
	for _, ip := range p.Status.PodIPs {
		list = append(list, netip.AddrPortFrom(netip.MustParseAddr(ip.IP), port))
	}
	return list
}
