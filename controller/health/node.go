package health

import (
	"context"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// toBeDeleted is the taint by which the cluster autoscaler announces that it will
// remove a node. kube-proxy heeds it alike.
const toBeDeleted = "ToBeDeletedByClusterAutoscaler"

// Node follows one Node object. Make it with NewNode.
type Node struct {
	name     string
	informer informers.SharedInformerFactory
	reason   atomic.Pointer[string]
}

// NewNode prepares to follow a node; Run does.
func NewNode(client kubernetes.Interface, name string) (*Node, error) {
	n := &Node{name: name}
	n.reason.Store(new(string))
	n.informer = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	}), informers.WithTransform(func(object any) (any, error) {
		if node, ok := object.(*corev1.Node); ok {
			return &corev1.Node{ObjectMeta: metav1.ObjectMeta{
				Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, DeletionTimestamp: node.DeletionTimestamp,
			}, Spec: corev1.NodeSpec{Taints: node.Spec.Taints}}, nil
		}
		return object, nil
	}))
	_, err := n.informer.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    n.note,
		UpdateFunc: func(_, object any) { n.note(object) },
		DeleteFunc: func(object any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil && key == name {
				n.set("the node has been deleted from the cluster")
			}
		},
	})
	return n, err
}

func (n *Node) note(object any) {
	node, ok := object.(*corev1.Node)
	if !ok || node.Name != n.name {
		return
	}
	reason := ""
	for _, t := range node.Spec.Taints {
		if t.Key == toBeDeleted {
			reason = "the cluster autoscaler is about to remove the node"
		}
	}
	if node.DeletionTimestamp != nil {
		reason = "the node is being deleted"
	}
	n.set(reason)
}

func (n *Node) set(reason string) { n.reason.Store(&reason) }

// Ineligible returns "" while the node takes traffic, else why it does not. A node
// that has not been seen yet takes it.
func (n *Node) Ineligible() string { return *n.reason.Load() }

// Run follows the node until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	n.informer.Start(ctx.Done())
	<-ctx.Done()
	n.informer.Shutdown()
	return nil
}
