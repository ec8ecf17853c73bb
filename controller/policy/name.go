package policy

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/vrouter-go/vrouter/internal/naming"
)

// clusterPrefix begins the names of what ClusterNetworkPolicies come to.
const clusterPrefix = "cnp"

// networkPolicyName is the name of what a NetworkPolicy comes to. A namespace may be
// called as the policies of the cluster begin: who owns it must not write over these.
func networkPolicyName(namespace, name string) string {
	if namespace == clusterPrefix {
		return naming.Join("ns", clusterPrefix, name) // no policy's name holds a colon
	}
	return naming.Join(namespace, name)
}

// setName is the name of the set of pods that a selector stands for. Selectors may be
// long, so the name is a hash; the same on every node.
func setName(key string) string { return "pods:" + hash(key) + hash("2"+key) }

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}
