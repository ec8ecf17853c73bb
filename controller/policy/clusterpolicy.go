package policy

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// ClusterNetworkPolicy is a policy of the whole cluster, after the v1alpha2 API of
// the Network Policy working group. Fields of later versions are not here: a peer or
// protocol without any field that is known has one that is not.
type ClusterNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              ClusterNetworkPolicySpec `json:"spec"`
}

// ClusterNetworkPolicySpec says whom the policy is about and what holds for them.
type ClusterNetworkPolicySpec struct {
	Tier     string           `json:"tier"`     // Admin or Baseline
	Priority int32            `json:"priority"` // 0 to 1000, the lowest first
	Subject  ClusterSubject   `json:"subject"`
	Ingress  []ClusterIngress `json:"ingress,omitempty"` // in order, 25 at most
	Egress   []ClusterEgress  `json:"egress,omitempty"`
}

// ClusterSubject selects pods. One field is given.
type ClusterSubject struct {
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods       *NamespacedPods       `json:"pods,omitempty"`
}

// NamespacedPods are pods by the labels of their namespace and their own.
type NamespacedPods struct {
	NamespaceSelector metav1.LabelSelector `json:"namespaceSelector"`
	PodSelector       metav1.LabelSelector `json:"podSelector"`
}

// ClusterIngress is a rule about connections to the subject.
type ClusterIngress struct {
	Name      string            `json:"name,omitempty"`
	Action    string            `json:"action"` // Accept, Deny or Pass
	From      []ClusterPeer     `json:"from"`
	Protocols []ClusterProtocol `json:"protocols,omitempty"` // none: all
}

// ClusterEgress is a rule about connections from the subject.
type ClusterEgress struct {
	Name      string            `json:"name,omitempty"`
	Action    string            `json:"action"`
	To        []ClusterPeer     `json:"to"`
	Protocols []ClusterProtocol `json:"protocols,omitempty"`
}

// ClusterPeer is the other end. One field is given; Networks in egress rules only.
type ClusterPeer struct {
	Namespaces *metav1.LabelSelector `json:"namespaces,omitempty"`
	Pods       *NamespacedPods       `json:"pods,omitempty"`
	Networks   []string              `json:"networks,omitempty"` // CIDRs
}

// ClusterProtocol is what a rule asks of the protocol. One field is given.
type ClusterProtocol struct {
	TCP                  *ClusterTransport `json:"tcp,omitempty"`
	UDP                  *ClusterTransport `json:"udp,omitempty"`
	SCTP                 *ClusterTransport `json:"sctp,omitempty"`
	DestinationNamedPort string            `json:"destinationNamedPort,omitempty"`
}

// ClusterTransport is what a rule asks of TCP, UDP or SCTP.
type ClusterTransport struct {
	DestinationPort *ClusterPort `json:"destinationPort,omitempty"`
}

// ClusterPort is a port or a range of ports, both ends included.
type ClusterPort struct {
	Number int32             `json:"number,omitempty"`
	Range  *ClusterPortRange `json:"range,omitempty"`
}

// ClusterPortRange is the ports from Start to End.
type ClusterPortRange struct {
	Start int32 `json:"start"`
	End   int32 `json:"end"`
}

// DecodeClusterNetworkPolicy reads a policy as a dynamic client has it.
func DecodeClusterNetworkPolicy(u *unstructured.Unstructured) (*ClusterNetworkPolicy, error) {
	p := &ClusterNetworkPolicy{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, p); err != nil {
		return nil, fmt.Errorf("ClusterNetworkPolicy %s: %w", u.GetName(), err)
	}
	return p, nil
}
