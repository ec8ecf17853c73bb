package ingress

import (
	"context"
	"log/slog"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	informer "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// secrets watches the Secrets that Ingresses name, each by its name, so that the API
// server never sends any other and RBAC can allow them one by one. It belongs to the
// loop.
type secrets struct {
	ctx     context.Context
	client  kubernetes.Interface
	log     *slog.Logger
	changed func()
	watched map[types.NamespacedName]*secretWatch
	running sync.WaitGroup
}

type secretWatch struct {
	informer cache.SharedIndexInformer
	stop     context.CancelFunc
}

// secretTimeout is how long a table waits for Secrets that are named for the first
// time. Those that come later make another table.
const secretTimeout = 3 * time.Second

func newSecrets(ctx context.Context, client kubernetes.Interface, log *slog.Logger, changed func()) *secrets {
	return &secrets{ctx: ctx, client: client, log: log, changed: changed, watched: make(map[types.NamespacedName]*secretWatch)}
}

// want watches exactly the named Secrets. It returns whether some are new, and then
// after they were read or the time was up.
func (s *secrets) want(ctx context.Context, names []types.NamespacedName) bool {
	wanted := make(map[types.NamespacedName]bool, len(names))
	var added []cache.InformerSynced
	for _, name := range names {
		wanted[name] = true
		if s.watched[name] == nil {
			w := s.start(name)
			s.watched[name] = w
			added = append(added, w.informer.HasSynced)
		}
	}
	for name, w := range s.watched {
		if !wanted[name] {
			w.stop()
			delete(s.watched, name)
		}
	}
	if len(added) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, secretTimeout)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), added...) {
		s.log.Warn("Secrets that Ingresses name could not be read in time; their hosts have no certificate until they are", "new", len(added))
	}
	return true
}

func (s *secrets) start(name types.NamespacedName) *secretWatch {
	i := informer.NewFilteredSecretInformer(s.client, name.Namespace, 0, nil, func(o *meta.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(meta.ObjectNameField, name.Name).String()
	})
	tell := func(any) { s.changed() }
	// None of these fails before the informer runs.
	_, _ = i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }, DeleteFunc: tell})
	_ = i.SetTransform(strip)
	_ = i.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		s.log.Warn("a Secret that an Ingress names cannot be read; allow get, list and watch of it", "secret", name.String(), "error", err)
	})
	ctx, stop := context.WithCancel(s.ctx)
	s.running.Go(func() { i.RunWithContext(ctx) })
	return &secretWatch{informer: i, stop: stop}
}

// get returns a watched Secret, or nil.
func (s *secrets) get(name types.NamespacedName) *core.Secret {
	w := s.watched[name]
	if w == nil {
		return nil
	}
	return find[core.Secret](w.informer.GetIndexer(), name)
}

// wait returns when nothing is watched any more, after the context has ended.
func (s *secrets) wait() { s.running.Wait() }
