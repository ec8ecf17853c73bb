//go:build linux

package control

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Schedule binds pods to nodes until ctx ends, in kube-scheduler's place: each pod to the
// node with the fewest pods among those that match its nodeSelector and are not cordoned.
// It returns when it has seen the nodes and pods that are there.
func Schedule(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	nodes, pods := factory.Core().V1().Nodes(), factory.Core().V1().Pods()
	s := &scheduler{client: client, nodes: nodes.Lister(), pods: pods.Lister(), wake: make(chan struct{}, 1), assumed: map[types.UID]string{}}
	wake := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { s.woken() }, UpdateFunc: func(any, any) { s.woken() }}
	for _, informer := range []cache.SharedIndexInformer{nodes.Informer(), pods.Informer()} {
		if _, err := informer.AddEventHandler(wake); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	go func() {
		defer factory.Shutdown()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
				s.bindAll(ctx)
			}
		}
	}()
	return ctx.Err()
}

type scheduler struct {
	client kubernetes.Interface
	nodes  listers.NodeLister
	pods   listers.PodLister
	wake   chan struct{}
	// assumed are the nodes of pods that are bound and that the informer has not seen so.
	assumed map[types.UID]string
}

func (s *scheduler) woken() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// bindAll binds what is not bound, and looks again soon where a binding failed: the pod
// may be gone, or the apiserver away.
func (s *scheduler) bindAll(ctx context.Context) {
	pods, err := s.pods.List(labels.Everything())
	if err != nil {
		return // the informer's memory is asked: it has no errors
	}
	load, assumed := map[string]int{}, map[types.UID]string{}
	for _, p := range pods {
		if node, ok := s.assumed[p.UID]; ok && p.Spec.NodeName == "" {
			assumed[p.UID] = node
			load[node]++
			continue
		}
		load[p.Spec.NodeName]++
	}
	s.assumed = assumed
	slices.SortFunc(pods, func(a, b *corev1.Pod) int { return cmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) })
	for _, p := range pods {
		if p.Spec.NodeName != "" || s.assumed[p.UID] != "" || p.DeletionTimestamp != nil {
			continue
		}
		node := s.choose(p, load)
		if node == "" {
			continue
		}
		binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name, UID: p.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
		if s.client.CoreV1().Pods(p.Namespace).Bind(ctx, binding, metav1.CreateOptions{}) != nil {
			time.AfterFunc(200*time.Millisecond, s.woken)
			continue
		}
		s.assumed[p.UID] = node
		load[node]++
	}
}

func (s *scheduler) choose(p *corev1.Pod, load map[string]int) (best string) {
	nodes, err := s.nodes.List(labels.SelectorFromSet(p.Spec.NodeSelector))
	if err != nil {
		return "" // as in bindAll
	}
	slices.SortFunc(nodes, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, n := range nodes {
		if !n.Spec.Unschedulable && (best == "" || load[n.Name] < load[best]) {
			best = n.Name
		}
	}
	return best
}
