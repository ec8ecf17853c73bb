package model

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxName is the longest name that a resource may have.
const maxName = 253

// ResourceName makes the name of a resource from the names that it is about,
// NAMESPACE:NAME:part. The parts are Kubernetes names, so that the whole is a
// resource name as it stands. One that is too long is cut and ends in a hash of
// the whole, the same on every node.
func ResourceName(parts ...string) string {
	name := strings.Join(parts, ":")
	if len(name) <= maxName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	hash := hex.EncodeToString(sum[:8])
	return strings.TrimRight(name[:maxName-1-len(hash)], "-_.:") + "." + hash
}
