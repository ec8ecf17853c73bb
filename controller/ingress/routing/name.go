package routing

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// maxPath is the longest path in bytes that a rule may have. A request's first line
// and headers must fit into 15 KiB anyway.
const maxPath = 4096

// hostName checks a rule's host and returns it in lower case. The empty host is
// AnyHost.
func hostName(host string) (string, error) {
	if host == "" {
		return AnyHost, nil
	}
	host = strings.ToLower(host)
	name := strings.TrimPrefix(host, "*.")
	if faults := validation.IsDNS1123Subdomain(name); len(faults) > 0 {
		return "", errors.New("it is no DNS name, with or without \"*.\" before it")
	}
	if len(host) > validation.DNS1123SubdomainMaxLength {
		return "", errors.New("it is too long")
	}
	return host, nil
}

// requestPath checks that a request can have this path. Only bytes that appear as
// they are in a request line pass: everything else is percent-encoded there.
func requestPath(path string) error {
	if !strings.HasPrefix(path, "/") {
		return errors.New("it does not begin with \"/\"")
	}
	if len(path) > maxPath {
		return fmt.Errorf("it is longer than %d bytes", maxPath)
	}
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>?\\^`{|}", c) >= 0 {
			return fmt.Errorf("byte %#x at %d cannot be in a request's path; write it percent-encoded", c, i)
		}
	}
	return nil
}

// objectName says whether a name of Kubernetes is one. The API server has checked it;
// it becomes a name in the proxy's configuration, so it is checked again.
func objectName(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }

// quote is a string of an Ingress's author as it may stand in an event or a log.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "..."
	}
	return strconv.QuoteToASCII(s)
}

func portString(port uint16) string { return strconv.FormatUint(uint64(port), 10) }
