package model

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// clusterPolicies is the resource of the ClusterNetworkPolicies. It is no part of
// Kubernetes itself: an API server serves it once somebody has defined it.
var clusterPolicies = schema.GroupVersionResource{
	Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies",
}

const (
	// askAgain is how often a cluster that does not serve ClusterNetworkPolicies is asked
	// whether it does by now.
	askAgain = 30 * time.Second
	// retry is how often an API server that gives no answer is asked.
	retry = time.Second
)

// extensions are the ClusterNetworkPolicies, where they are served.
type extensions struct {
	client  dynamic.Interface
	factory dynamicinformer.DynamicSharedInformerFactory
	synced  cache.InformerSynced
}

// newExtensions prepares the informer.
func newExtensions(client dynamic.Interface, handler cache.ResourceEventHandler) (*extensions, error) {
	x := &extensions{client: client, factory: dynamicinformer.NewDynamicSharedInformerFactory(client, 0)}
	r, err := x.factory.ForResource(clusterPolicies).Informer().AddEventHandler(handler)
	if err != nil {
		return nil, fmt.Errorf("controller: watch ClusterNetworkPolicies: %w", err)
	}
	x.synced = r.HasSynced
	return x, nil
}

// served asks the API server whether it serves the ClusterNetworkPolicies to us.
func (x *extensions) served(ctx context.Context) (bool, error) {
	_, err := x.client.Resource(clusterPolicies).List(ctx, metav1.ListOptions{Limit: 1})
	switch {
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return false, nil
	case apierrors.IsForbidden(err):
		slog.Warn("ClusterNetworkPolicies are not read, because the API server does not let us; the ClusterRole must allow list and watch", "error", err)
		return false, nil
	}
	return err == nil, err
}

// start begins to watch if they are served, and reports whether they are. It asks until
// the API server answers. The error is ctx's.
func (x *extensions) start(ctx context.Context) (served bool, err error) {
	err = wait.PollUntilContextCancel(ctx, retry, true, func(ctx context.Context) (bool, error) {
		ok, err := x.served(ctx)
		if err != nil {
			slog.Warn("the API server does not say whether it serves ClusterNetworkPolicies; it is asked again", "error", err)
			return false, nil
		}
		served = ok
		return true, nil
	})
	if served {
		x.factory.Start(ctx.Done())
	}
	return served, err
}

// await begins to watch once they are served. It ends with ctx.
func (x *extensions) await(ctx context.Context) {
	err := wait.PollUntilContextCancel(ctx, askAgain, false, x.served)
	for err != nil && ctx.Err() == nil { // the API server was away
		err = wait.PollUntilContextCancel(ctx, askAgain, false, x.served)
	}
	if err == nil {
		x.factory.Start(ctx.Done())
	}
}
