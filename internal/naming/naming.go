// Package naming makes the names of resources from the names that a cluster knows
// things by. The control plane and the CNI plugin must arrive at the same name for
// one pod, so both ask here.
package naming

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Max is the most characters that a resource's name may have.
const Max = 253

// hashed is how many characters of the hash end a name that could not stay as it
// was: 64 bits, so that two of them on one node are not alike by accident.
const hashed = 16

// Join joins the parts of a name by colons: Join("shop", "web-6f7d") is the interface
// of the pod web-6f7d in the namespace shop. A name that would be too long, or hold
// or end in what a resource's name may not, is cut and altered and ends with a hash
// of all the parts.
func Join(parts ...string) string {
	name := strings.Join(parts, ":")
	if Valid(name) {
		return name
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	head := strings.Map(func(r rune) rune {
		if allowed(r) {
			return r
		}
		return '-'
	}, name)
	head = strings.TrimLeft(head[:min(len(head), Max-hashed-1)], "-_.:")
	if head == "" {
		return hex.EncodeToString(sum[:])[:hashed]
	}
	return head + "-" + hex.EncodeToString(sum[:])[:hashed]
}

// Valid reports whether a resource may have the name: letters, digits, '-', '_', '.'
// and ':', a letter or digit at both ends, at most Max.
func Valid(name string) bool {
	if name == "" || len(name) > Max || !alphanumeric(rune(name[0])) || !alphanumeric(rune(name[len(name)-1])) {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return !allowed(r) })
}

func allowed(r rune) bool { return alphanumeric(r) || r == '-' || r == '_' || r == '.' || r == ':' }

func alphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}
