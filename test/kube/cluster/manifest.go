//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/vrouter-go/vrouter/test/kube/control"
)

// shipped are the objects of our manifests that a cluster without containers can have:
// the definition of ClusterNetworkPolicy, and what vrkube's account may do.
var shipped = map[string]schema.GroupVersionResource{
	"CustomResourceDefinition": {Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
	"ClusterRole":              {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
	"ClusterRoleBinding":       {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
}

// ClusterPolicies is what our manifests define.
var ClusterPolicies = schema.GroupVersionResource{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}

// Dynamic returns the administrator's client for objects of any kind.
func (c *Cluster) Dynamic() (dynamic.Interface, error) {
	config, err := c.Config(control.Admin)
	if err != nil {
		return nil, err
	}
	return dynamic.NewForConfig(config)
}

// ship applies the manifests that users apply, so that a right that is missing there is
// missing here.
func (c *Cluster) ship(ctx context.Context) error {
	client, err := c.Dynamic()
	if err != nil {
		return err
	}
	made := map[string]int{}
	for _, file := range c.o.Manifests {
		objects, err := read(file)
		if err != nil {
			return err
		}
		for _, o := range objects {
			resource, ok := shipped[o.GetKind()]
			if !ok {
				continue
			}
			if _, err := client.Resource(resource).Create(ctx, o, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}); err != nil {
				return fmt.Errorf("%s: %s %s: %w", file, o.GetKind(), o.GetName(), err)
			}
			made[o.GetKind()]++
		}
	}
	for kind := range shipped {
		if made[kind] == 0 {
			return fmt.Errorf("cluster: no %s in %v", kind, c.o.Manifests)
		}
	}
	// vrkube asks at its start whether they are served, and not soon again.
	return Until(ctx, patience, "ClusterNetworkPolicies are served", func(ctx context.Context) error {
		_, err := client.Resource(ClusterPolicies).List(ctx, metav1.ListOptions{})
		return err
	})
}

// read reads the objects of a manifest.
func read(file string) (list []*unstructured.Unstructured, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	decoder := yaml.NewYAMLOrJSONDecoder(f, 1<<16)
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if o.Object != nil {
			list = append(list, o)
		}
	}
}
