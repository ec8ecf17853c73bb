// Package policy translates the policies of a cluster into resources of one node's
// agent: NetworkPolicy v1 and ClusterNetworkPolicy v1alpha2 become SecurityPolicies
// and AddressSets. It reads no API and knows no clock; who feeds it owns both.
//
// An Index holds the pods, namespaces and policies of the cluster and says after
// each round of changes which resources differ from before. A pod that comes or
// goes costs what it touches: the sets it is in and, where it is one of this node,
// the policies that select it.
//
// Pods of this node are selected by their labels, which their interfaces carry: a
// policy holds for a pod whose address nobody knows yet. Peers are sets of
// addresses, wherever the pods are (docs/design/0004-policy.md says why).
//
// So that all rules hold from the first instant of a pod, who calls puts the upserts
// and deletes of one Changes into the one transaction in which the pod's interface
// stands, with labels, namespace, namespace labels and NamedPorts(pod); and calls
// Changes only when the pods, namespaces and policies of the cluster are all there.
package policy
