package model

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	fakedynamic "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestClusterPolicies: those that there are have been seen when Start returns; a cluster
// that does not serve them, or does not let us read them, holds nobody up; one that gives
// no answer is asked again.
func TestClusterPolicies(t *testing.T) {
	policy := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": clusterPolicies.GroupVersion().String(), "kind": "ClusterNetworkPolicy", "metadata": map[string]any{"name": "deny"},
	}}
	for name, tc := range map[string]struct {
		answers []error // to the first requests
		seen    int
	}{
		"served":       {nil, 1},
		"not served":   {[]error{apierrors.NewNotFound(clusterPolicies.GroupResource(), "")}, 0},
		"forbidden":    {[]error{apierrors.NewForbidden(clusterPolicies.GroupResource(), "", nil)}, 0},
		"away, served": {[]error{apierrors.NewServiceUnavailable("starting")}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kinds := map[schema.GroupVersionResource]string{clusterPolicies: "ClusterNetworkPolicyList"}
			client := fakedynamic.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds, policy)
			var asked atomic.Int32
			client.PrependReactor("list", clusterPolicies.Resource, func(clienttesting.Action) (bool, runtime.Object, error) {
				n := int(asked.Add(1))
				if n > len(tc.answers) {
					return false, nil, nil
				}
				return true, nil, tc.answers[n-1]
			})
			w, err := NewWatch(fake.NewClientset(), client, false)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer w.Stop()
			defer cancel()
			if err := w.Start(ctx); err != nil {
				t.Fatal(err)
			}
			v := NewView("n1")
			w.Take(v)
			if got := len(v.ClusterPolicies()); got != tc.seen {
				t.Errorf("%d policies have been seen, want %d", got, tc.seen)
			}
			if d := v.Take(); len(d.ClusterPolicies) != tc.seen {
				t.Errorf("%d have to be compiled, want %d", len(d.ClusterPolicies), tc.seen)
			}
		})
	}
}
