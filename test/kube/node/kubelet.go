//go:build linux

// Package node stands in for kubelet and container runtime on a node that is a network
// namespace. What it tells the apiserver is what a kubelet tells, and pods come to their
// network by a real CNI plugin; a container is a local process in the pod's network
// namespace.
//
// Not there: images, volumes, init containers, resources, users, mounts, exec and logs by
// the API, liveness and startup probes.
package node

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"
)

// Config says what a node is.
type Config struct {
	Name      string
	Namespace string         // the node's network namespace
	Addresses []netip.Addr   // the node's own, first of each family is what pods are told
	PodCIDRs  []netip.Prefix // one of each family
	Labels    map[string]string
	Client    kubernetes.Interface
	Dir       string   // for what pods write; made if need be
	Programs  string   // directory in which a container's command is found by its name
	CNI       []byte   // network configuration list
	CNIPath   []string // directories of plugins
	// PodNamespace returns a new name for a pod's network namespace.
	PodNamespace func() string
}

// Kubelet runs the pods that are bound to a node.
type Kubelet struct {
	Config
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu   sync.Mutex
	pods map[types.UID]*pod // those that run or end
}

// Start runs the pods of a node that Register has made known, until Close.
func Start(ctx context.Context, c Config) (*Kubelet, error) {
	ctx, cancel := context.WithCancel(ctx)
	k := &Kubelet{Config: c, ctx: ctx, cancel: cancel, pods: map[types.UID]*pod{}}
	factory := informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", c.Name).String()
	}))
	informer := factory.Core().V1().Pods().Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { k.sync(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { k.sync(o.(*corev1.Pod)) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			k.removed(o.(*corev1.Pod))
		},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	factory.Start(ctx.Done())
	k.work.Go(func() {
		<-ctx.Done()
		factory.Shutdown()
	})
	return k, nil
}

// Close ends all pods at once and waits until their processes and namespaces are gone. It
// tells the apiserver nothing, as a node does that loses its power.
func (k *Kubelet) Close() error {
	k.cancel()
	k.work.Wait()
	var err error
	for _, p := range k.pods { // the others' goroutines have ended
		err = errors.Join(err, p.wipe())
	}
	return err
}

// PodNetwork returns the network namespace of a pod that runs here.
func (k *Kubelet) PodNetwork(uid types.UID) (namespace string, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p, ok := k.pods[uid]
	if !ok {
		return "", false
	}
	return p.network()
}

// Register makes the Node, or brings one that is there up to date. It is apart from Start
// because the dataplane, which has to be there before pods are, looks at the Node.
func Register(ctx context.Context, k Config) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.Name, Labels: map[string]string{
		corev1.LabelHostname: k.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
	}}}
	for key, value := range k.Labels {
		node.Labels[key] = value
	}
	for _, prefix := range k.PodCIDRs {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, prefix.String())
	}
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	nodes := k.Client.CoreV1().Nodes()
	if _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	status := corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: k.Name}}}
	for _, a := range k.Addresses {
		status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	now := metav1.Now()
	status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now,
	}}
	// Controllers write to new nodes as well.
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		made, err := nodes.Get(ctx, k.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		made.Spec.Taints = nil // the apiserver gives new nodes node.kubernetes.io/not-ready
		if made, err = nodes.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
			return err
		}
		made.Status = status
		_, err = nodes.UpdateStatus(ctx, made, metav1.UpdateOptions{})
		return err
	})
}

// sync takes the newest state of a pod.
func (k *Kubelet) sync(object *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pods[object.UID]
	finished := object.Status.Phase == corev1.PodSucceeded || object.Status.Phase == corev1.PodFailed
	switch {
	case p == nil && object.DeletionTimestamp != nil:
		k.work.Go(func() { k.finalDelete(object) })
	case p == nil && !finished && k.ctx.Err() == nil:
		p = newPod(k, object)
		k.pods[object.UID] = p
		k.work.Go(func() { k.live(p) })
	case p != nil && object.DeletionTimestamp != nil:
		grace := time.Duration(0)
		if s := object.DeletionGracePeriodSeconds; s != nil {
			grace = time.Duration(*s) * time.Second
		}
		p.end(grace)
	}
}

// removed is for a pod that is gone from the API without our doing: it was deleted by force.
func (k *Kubelet) removed(object *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pods[object.UID]; p != nil {
		p.end(0)
	}
}

// live is a pod's life. What could not be removed is tried again, by Close at the latest.
func (k *Kubelet) live(p *pod) {
	deleted := p.run(k.ctx)
	for err := p.wipe(); err != nil; err = p.wipe() {
		p.log("remove: %v", err)
		select {
		case <-k.ctx.Done():
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
	if deleted {
		k.finalDelete(p.object)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pods, p.object.UID)
}

// finalDelete removes a pod's object, as a kubelet does when nothing of the pod is left.
func (k *Kubelet) finalDelete(object *corev1.Pod) {
	zero := int64(0)
	k.insist(func(ctx context.Context) error {
		return k.Client.CoreV1().Pods(object.Namespace).Delete(ctx, object.Name,
			metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &object.UID}})
	})
}

// insist makes a request until the apiserver takes it, the object turns out to be gone or
// another one, or the kubelet closes.
func (k *Kubelet) insist(request func(context.Context) error) {
	for {
		ctx, cancel := context.WithTimeout(k.ctx, 5*time.Second)
		err := request(ctx)
		cancel()
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
			return
		}
		select {
		case <-k.ctx.Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}
