package model

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Watch follows the cluster's objects through informers and keeps what has changed
// until it is asked. Its handlers do nothing else, so that no burst of events waits
// for a compilation. Safe for concurrent use.
type Watch struct {
	factories  []informers.SharedInformerFactory
	synced     []cache.InformerSynced
	changed    chan struct{} // of one place: something waits
	extensions *extensions   // nil: ClusterNetworkPolicies are not watched
	background sync.WaitGroup

	mu      sync.Mutex
	pending map[eventKey]any // guarded by mu; the newest state of each object, nil where it is gone
}

type eventKey struct {
	kind Kind
	name Name
}

// ClientConfig returns a copy of a client's configuration with which a Watch costs
// least: the objects come in protobuf.
func ClientConfig(config *rest.Config) *rest.Config {
	c := rest.CopyConfig(config)
	c.ContentType = runtime.ContentTypeProtobuf
	c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return c
}

// NewWatch prepares the informers. With custom, ClusterNetworkPolicies are watched
// where they are served; nil: not. With serviceCIDRs the ranges of cluster IPs are
// watched too, which Kubernetes has since 1.33.
func NewWatch(client kubernetes.Interface, custom dynamic.Interface, serviceCIDRs bool) (*Watch, error) {
	w := &Watch{changed: make(chan struct{}, 1), pending: map[eventKey]any{}}
	all := w.factory(client, "")
	services := w.factory(client, "!"+labelProxyName)
	slices := w.factory(client, "!"+labelProxyName+",!"+corev1.IsHeadlessService)
	list := []struct {
		kind     Kind
		informer cache.SharedIndexInformer
	}{
		{NamespaceKind, all.Core().V1().Namespaces().Informer()},
		{NodeKind, all.Core().V1().Nodes().Informer()},
		{PodKind, all.Core().V1().Pods().Informer()},
		{PolicyKind, all.Networking().V1().NetworkPolicies().Informer()},
		{ServiceKind, services.Core().V1().Services().Informer()},
		{SliceKind, slices.Discovery().V1().EndpointSlices().Informer()},
	}
	if serviceCIDRs {
		list = append(list, struct {
			kind     Kind
			informer cache.SharedIndexInformer
		}{ServiceCIDRKind, all.Networking().V1().ServiceCIDRs().Informer()})
	}
	for _, i := range list {
		r, err := i.informer.AddEventHandler(w.handler(i.kind))
		if err != nil {
			return nil, fmt.Errorf("controller: watch: %w", err)
		}
		w.synced = append(w.synced, r.HasSynced) // the handler's: the cache may be ahead of it
	}
	if custom != nil {
		x, err := newExtensions(custom, w.handler(ClusterPolicyKind))
		if err != nil {
			return nil, err
		}
		w.extensions = x
	}
	return w, nil
}

func (w *Watch) factory(client kubernetes.Interface, selector string) informers.SharedInformerFactory {
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(Strip),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = selector }))
	w.factories = append(w.factories, f)
	return f
}

// Start begins to watch, until ctx ends, and returns when all objects that there are
// have been seen. The error is ctx's.
func (w *Watch) Start(ctx context.Context) error {
	for _, f := range w.factories {
		f.Start(ctx.Done())
	}
	synced := w.synced
	if x := w.extensions; x != nil {
		served, err := x.start(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("controller: ClusterNetworkPolicies: %w", err)
		case served: // a pod whose policy is not known yet would be open
			synced = append(synced, x.synced)
		default:
			w.background.Go(func() { x.await(ctx) })
		}
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return fmt.Errorf("controller: stopped before the cluster's objects were read: %w", context.Cause(ctx))
	}
	return nil
}

// Stop waits for the informers to end, after the context of Start has.
func (w *Watch) Stop() {
	for _, f := range w.factories {
		f.Shutdown()
	}
	w.background.Wait()
	if w.extensions != nil {
		w.extensions.factory.Shutdown()
	}
}

// Changed is ready to be received from after something has changed.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Take brings a view up to date.
func (w *Watch) Take(v *View) {
	w.mu.Lock()
	pending := w.pending
	w.pending = map[eventKey]any{}
	w.mu.Unlock()
	for k, o := range pending {
		v.Apply(Event{Kind: k.kind, Name: k.name, Object: o})
	}
}

func (w *Watch) handler(kind Kind) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.note(kind, o, false) },
		UpdateFunc: func(_, o any) { w.note(kind, o, false) },
		DeleteFunc: func(o any) { w.note(kind, o, true) },
	}
}

func (w *Watch) note(kind Kind, object any, gone bool) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object) // of what is gone perhaps only the name is known
	if err != nil {
		return // no informer has objects without a name
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return
	}
	if gone {
		object = nil
	}
	w.mu.Lock()
	w.pending[eventKey{kind, Name{Namespace: namespace, Name: name}}] = object
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}
