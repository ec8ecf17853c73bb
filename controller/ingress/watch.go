package ingress

import (
	"context"
	"errors"
	"log/slog"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// watch holds the cluster's Ingresses, IngressClasses, Services and EndpointSlices,
// and Nodes where addresses are taken from them.
type watch struct {
	all       informers.SharedInformerFactory
	nodes     informers.SharedInformerFactory // nil: not watched
	ingresses cache.Indexer
	classes   cache.Indexer
	services  cache.Indexer
	slices    cache.Indexer // with an index by Service
	node      cache.Indexer // nil: not watched
}

// byService is the index of EndpointSlices.
const byService = "service"

// newWatch prepares the watches. changed is called after every change, but for those
// of Services that do not concern.
func newWatch(client kubernetes.Interface, publish Publish, log *slog.Logger, changed func(), concerns func(types.NamespacedName) bool) *watch {
	w := &watch{all: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(strip))}
	ingresses := w.all.Networking().V1().Ingresses().Informer()
	classes := w.all.Networking().V1().IngressClasses().Informer()
	services := w.all.Core().V1().Services().Informer()
	slices := w.all.Discovery().V1().EndpointSlices().Informer()
	// Neither fails before the informer runs.
	_ = slices.AddIndexers(cache.Indexers{byService: indexByService})
	w.ingresses, w.classes, w.services, w.slices = ingresses.GetIndexer(), classes.GetIndexer(), services.GetIndexer(), slices.GetIndexer()
	always := func(any) bool { return true }
	watched := map[cache.SharedIndexInformer]func(any) bool{
		ingresses: always, classes: always,
		services: func(o any) bool {
			s, ok := o.(*core.Service)
			name := types.NamespacedName{}
			if ok {
				name = types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
			}
			return !ok || concerns(name) || publish.Service != nil && name == *publish.Service
		},
		slices: func(o any) bool {
			s, ok := o.(*discovery.EndpointSlice)
			return !ok || concerns(serviceOf(s))
		},
	}
	if publish.Nodes != nil {
		w.nodes = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(strip),
			informers.WithTweakListOptions(func(o *meta.ListOptions) { o.LabelSelector = publish.Nodes.String() }))
		nodes := w.nodes.Core().V1().Nodes().Informer()
		w.node = nodes.GetIndexer()
		watched[nodes] = always
	}
	for informer, matters := range watched {
		tell := func(o any) {
			if matters(o) {
				changed()
			}
		}
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell})
		_ = informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
			log.Warn("the API server was lost or refuses; what is known stays in force", "error", err)
		})
	}
	return w
}

// start begins to watch and returns when everything has been read once, or when ctx
// ends; watching ends with inner.
func (w *watch) start(ctx, inner context.Context) error {
	for _, f := range [...]informers.SharedInformerFactory{w.all, w.nodes} {
		if f == nil {
			continue
		}
		f.StartWithContext(inner)
		for kind, ok := range f.WaitForCacheSync(ctx.Done()) {
			if !ok {
				return errors.New("stopped before all " + kind.String() + " were read")
			}
		}
	}
	return nil
}

// wait returns when nothing is watched any more.
func (w *watch) wait() {
	w.all.Shutdown()
	if w.nodes != nil {
		w.nodes.Shutdown()
	}
}

// strip removes what nobody here reads.
func strip(o any) (any, error) {
	if object, ok := o.(meta.Object); ok {
		object.SetManagedFields(nil)
	}
	if s, ok := o.(*discovery.EndpointSlice); ok {
		for i := range s.Endpoints {
			s.Endpoints[i].TargetRef, s.Endpoints[i].Hints, s.Endpoints[i].NodeName, s.Endpoints[i].DeprecatedTopology = nil, nil, nil, nil
		}
	}
	return o, nil
}

func serviceOf(s *discovery.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discovery.LabelServiceName]}
}

func indexByService(o any) ([]string, error) {
	s, ok := o.(*discovery.EndpointSlice)
	if !ok {
		return nil, errors.New("not an EndpointSlice")
	}
	return []string{serviceOf(s).String()}, nil
}

// objects are what is known now.
func (w *watch) objects(secret func(types.NamespacedName) *core.Secret) routing.Objects {
	return routing.Objects{
		Ingresses: listOf[networking.Ingress](w.ingresses), Classes: listOf[networking.IngressClass](w.classes),
		Service: w.service, Secret: secret,
		Slices: func(name types.NamespacedName) []*discovery.EndpointSlice {
			found, _ := w.slices.ByIndex(byService, name.String()) // the index exists
			return pointers[discovery.EndpointSlice](found)
		},
	}
}

func (w *watch) service(name types.NamespacedName) *core.Service {
	return find[core.Service](w.services, name)
}

func (w *watch) ingress(name types.NamespacedName) *networking.Ingress {
	return find[networking.Ingress](w.ingresses, name)
}

// selected are the Nodes whose addresses are published.
func (w *watch) selected() []*core.Node { return listOf[core.Node](w.node) }

func find[T any](i cache.Indexer, name types.NamespacedName) *T {
	o, _, _ := i.GetByKey(name.String()) // an Indexer in memory fails never
	found, _ := o.(*T)
	return found
}

func listOf[T any](i cache.Indexer) []*T {
	if i == nil {
		return nil
	}
	return pointers[T](i.List())
}

func pointers[T any](all []any) []*T {
	out := make([]*T, 0, len(all))
	for _, o := range all {
		if p, ok := o.(*T); ok {
			out = append(out, p)
		}
	}
	return out
}
