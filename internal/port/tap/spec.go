//go:build linux

package tap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

const (
	// DefaultTxQueueLen is the length, in packets, of each queue from the guest
	// to us. The kernel drops silently when it is full; its own default is 1000.
	DefaultTxQueueLen = 4096
	// MaxQueues is the most queues a TAP may have (MAX_TAP_QUEUES in the kernel).
	MaxQueues = 256
	// MaxMTU is the largest MTU of a TAP: 65535 less the Ethernet header.
	MaxMTU = 65521
	minMTU = 68 // RFC 791
	// minMTUv6 is the smallest MTU that can carry IPv6 (RFC 8200 section 5).
	minMTUv6 = 1280
	maxName  = 15 // IFNAMSIZ with its terminating zero
)

// Route is a route in the guest's namespace through the TAP. Without Via the
// destination is on the link.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr // zero: on the link
	Onlink bool       // Via need not be inside an address's prefix
}

// Spec is what a TAP made by us shall look like. Applying the same Spec again
// changes nothing.
type Spec struct {
	Name      string // unique on this node, at most 15 bytes; the name until the device is moved
	Netns     string // namespace of the guest end, by path or name; "" is ours
	GuestName string // name of the guest end in Netns; "" is Name
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // exactly these, beside link-local ones
	Routes    []Route        // exactly these, beside routes made by others
	GatewayV4 netip.Addr     // default route; zero: none
	GatewayV6 netip.Addr

	MTU        int // bytes; 0 leaves what is there (1500 on a new device)
	Queues     int // 1 to MaxQueues; 0 is 1
	TxQueueLen int // packets; 0 is DefaultTxQueueLen
	Up         bool
	// Loose has the guest's kernel take packets in by the TAP whose senders it reaches
	// by another link: rp_filter 2 (RFC 3704 §2.4). A node needs it whose packets come
	// in by the TAP and leave by its uplink.
	Loose bool
}

// withDefaults returns s with the defaults filled in.
func (s Spec) withDefaults() Spec {
	if s.GuestName == "" {
		s.GuestName = s.Name
	}
	if s.Queues == 0 {
		s.Queues = 1
	}
	if s.TxQueueLen == 0 {
		s.TxQueueLen = DefaultTxQueueLen
	}
	return s
}

// validate checks a Spec with its defaults and reports every bad field.
func (s Spec) validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("tap %s: %s: %s", s.Name, field, fmt.Sprintf(format, args...)))
	}
	checkName := func(field, name string) {
		if name == "" || len(name) > maxName || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n%") {
			bad(field, "%q must be 1 to %d bytes without '/', ':', '%%' or blanks", name, maxName)
		}
	}
	checkName("name", s.Name)
	if s.GuestName != s.Name {
		checkName("guestName", s.GuestName)
	}
	if s.Queues < 1 || s.Queues > MaxQueues {
		bad("queues", "%d must be 1 to %d", s.Queues, MaxQueues)
	}
	if s.TxQueueLen < 1 || s.TxQueueLen > 1<<16 {
		bad("txQueueLen", "%d must be 1 to %d", s.TxQueueLen, 1<<16)
	}
	if s.MTU != 0 && (s.MTU < minMTU || s.MTU > MaxMTU) {
		bad("mtu", "%d must be %d to %d", s.MTU, minMTU, MaxMTU)
	}
	if s.MTU != 0 && s.MTU < minMTUv6 && s.hasV6() {
		bad("mtu", "%d must be at least %d on a link with IPv6", s.MTU, minMTUv6)
	}
	if s.MAC != nil && (len(s.MAC) != 6 || s.MAC[0]&1 != 0) {
		bad("mac", "%q must be six bytes and not a group address", s.MAC)
	}
	s.validateL3(bad)
	return errors.Join(errs...)
}

func (s Spec) validateL3(bad func(field, format string, args ...any)) {
	for i, a := range s.Addresses {
		if !a.IsValid() || a.Addr().Is4In6() || a.Addr().IsMulticast() || a.Addr().IsUnspecified() {
			bad(fmt.Sprintf("addresses[%d]", i), "%v must be a unicast address with a prefix length", a)
		}
	}
	for i, r := range s.Routes {
		field := fmt.Sprintf("routes[%d]", i)
		if !r.Dst.IsValid() || r.Dst.Addr().Is4In6() || r.Dst != r.Dst.Masked() {
			bad(field, "destination %v must be a prefix without host bits", r.Dst)
		}
		if r.Via.IsValid() && r.Via.Is4() != r.Dst.Addr().Is4() {
			bad(field, "via %v must be of the family of %v", r.Via, r.Dst)
		}
	}
	if s.GatewayV4.IsValid() && !s.GatewayV4.Is4() {
		bad("gatewayV4", "%v must be an IPv4 address", s.GatewayV4)
	}
	if s.GatewayV6.IsValid() && (!s.GatewayV6.Is6() || s.GatewayV6.Is4In6()) {
		bad("gatewayV6", "%v must be an IPv6 address", s.GatewayV6)
	}
}

// hasV6 reports whether anything in s needs IPv6 on the link.
func (s Spec) hasV6() bool {
	for _, a := range s.Addresses {
		if a.Addr().Is6() {
			return true
		}
	}
	for _, r := range s.Routes {
		if r.Dst.Addr().Is6() {
			return true
		}
	}
	return s.GatewayV6.IsValid()
}

// routes returns all routes, the default ones included. A gateway outside every
// address's prefix is reached directly on the link, as pods with /32 addresses
// need it.
func (s Spec) routes() []Route {
	all := make([]Route, 0, len(s.Routes)+2)
	for _, r := range s.Routes {
		r.Onlink = r.Via.IsValid() && (r.Onlink || !s.covers(r.Via))
		all = append(all, r)
	}
	for _, gw := range []netip.Addr{s.GatewayV4, s.GatewayV6} {
		if !gw.IsValid() {
			continue
		}
		dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gw.Is6() {
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		all = append(all, Route{Dst: dst, Via: gw, Onlink: !s.covers(gw)})
	}
	return all
}

// covers reports whether an address's prefix holds a.
func (s Spec) covers(a netip.Addr) bool {
	for _, p := range s.Addresses {
		if p.Contains(a) {
			return true
		}
	}
	return a.Is6() && a.IsLinkLocalUnicast()
}
