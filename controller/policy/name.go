package policy

import (
	"crypto/sha256"
	"encoding/hex"
)

// setName is the name of the set of pods that a selector stands for. Selectors may be
// long, so the name is a hash; the same on every node.
func setName(key string) string { return "pods:" + hash(key) + hash("2"+key) }

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}
