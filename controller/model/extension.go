package model

import (
	"context"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// clusterPolicies is the resource of the ClusterNetworkPolicies. It is no part of
// Kubernetes itself: an API server serves it once somebody has defined it.
var clusterPolicies = schema.GroupVersionResource{
	Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies",
}

// askAgain is how often a cluster that does not serve ClusterNetworkPolicies is asked
// whether it does by now.
const askAgain = 30 * time.Second

// served asks the API server whether it serves the ClusterNetworkPolicies.
func (w *Watch) served(ctx context.Context) (bool, error) {
	_, err := w.extensions.Resource(clusterPolicies).List(ctx, metav1.ListOptions{Limit: 1})
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return false, nil
	}
	return false, err
}

// startExtensions watches the ClusterNetworkPolicies. Where they are served, they are
// among what Start waits for: a pod whose policy is not known yet would be open.
// Where they are not, it goes on asking.
func (w *Watch) startExtensions(ctx context.Context) error {
	for {
		ok, err := w.served(ctx)
		switch {
		case ok:
			synced, err := w.watchExtensions(ctx)
			w.synced = append(w.synced, synced)
			return err
		case err == nil:
			go w.awaitExtensions(ctx)
			return nil
		case apierrors.IsForbidden(err):
			slog.Warn("ClusterNetworkPolicies are not read, because the API server does not let us; the ClusterRole must allow get, list and watch", "error", err)
			go w.awaitExtensions(ctx)
			return nil
		}
		if !pause(ctx, time.Second) { // the API server is away
			return context.Cause(ctx)
		}
	}
}

// awaitExtensions begins to watch once they are served. It ends with ctx.
func (w *Watch) awaitExtensions(ctx context.Context) {
	for pause(ctx, askAgain) {
		if ok, _ := w.served(ctx); !ok {
			continue
		}
		if _, err := w.watchExtensions(ctx); err != nil {
			slog.Error("ClusterNetworkPolicies are not watched", "error", err)
		}
		return
	}
}

func (w *Watch) watchExtensions(ctx context.Context) (cache.InformerSynced, error) {
	f := dynamicinformer.NewDynamicSharedInformerFactory(w.extensions, 0)
	r, err := f.ForResource(clusterPolicies).Informer().AddEventHandler(w.handler(ClusterPolicyKind))
	if err != nil {
		return nil, err
	}
	f.Start(ctx.Done())
	return r.HasSynced, nil
}

// pause returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
