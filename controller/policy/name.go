package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxName is the longest name that a resource may have.
const maxName = 253

// resourceName joins names of Kubernetes to that of a resource. One that is too long
// is cut and ends in a hash of the whole.
func resourceName(parts ...string) string {
	name := strings.Join(parts, ":")
	if len(name) <= maxName {
		return name
	}
	hash := hash(name)
	return strings.TrimRight(name[:maxName-1-len(hash)], "-_.:") + "." + hash
}

// setName is the name of the set of pods that a selector stands for. Selectors may be
// long, so the name is a hash; the same on every node.
func setName(key string) string { return "pods:" + hash(key) + hash("2"+key) }

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}
