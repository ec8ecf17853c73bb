package header

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// predicates in the order of the columns below.
var predicates = []struct {
	letter byte
	holds  func([16]byte) bool
}{
	{'4', IsIPv4}, {'u', IsUnspecified}, {'l', IsLoopback}, {'m', IsMulticast}, {'n', IsLinkLocalMulticast},
	{'s', IsSolicitedNode}, {'k', IsLinkLocal}, {'b', IsLimitedBroadcast}, {'r', IsReserved},
	{'S', IsMartianSource}, {'D', IsMartianDestination},
}

// RFC 1812 §5.3.7: martian sources and destinations of IPv4, first and last of each block
// RFC 3927 §7: 169.254/16 is link-local
// RFC 4291 §2.4: the IPv6 address types
// RFC 6890: special-purpose blocks that may not be forwarded
func TestAddressPredicates(t *testing.T) {
	t.Parallel()
	tests := map[string]string{ // address → letters of the predicates that hold
		"0.0.0.0": "4uSD", "0.255.255.255": "4SD", "1.0.0.0": "4", "10.0.0.1": "4", "126.255.255.255": "4",
		"127.0.0.0": "4lSD", "127.255.255.255": "4lSD", "128.0.0.0": "4", "169.253.255.255": "4", "169.254.0.0": "4k",
		"169.254.255.255": "4k", "169.255.0.0": "4", "223.255.255.255": "4", "224.0.0.0": "4mnS", "224.0.0.255": "4mnS",
		"224.0.1.0": "4mS", "239.255.255.255": "4mS", "240.0.0.0": "4rSD", "255.255.255.254": "4rSD", "255.255.255.255": "4bS",
		"::": "uSD", "::1": "lSD", "::2": "SD", "::255.255.255.255": "SD", "::1:0:0": "", "64:ff9b::1": "", "2001:db8::1": "",
		"fc00::1": "", "fdff::1": "", "fe7f::1": "", "fe80::": "k", "febf:ffff::1": "k", "fec0::1": "",
		"ff00::1": "mnSD", "ff01::1": "mnSD", "ff02::1": "mnS", "ff02::1:ff00:1": "mnsS", "ff02::1:feff:ffff": "mnS",
		"ff02::2:ff00:1": "mnS", "ff05::2": "mS", "ff0e::1": "mS", "ff1e::1": "mS", "ff12::1": "mnS",
	}
	for text, want := range tests {
		got := ""
		for _, p := range predicates {
			if p.holds(addr(text)) {
				got += string(p.letter)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// The predicates that net/netip knows too agree with it on random addresses.
func TestPredicatesEqualNetip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SampledFrom([]string{"0.0.0.0", "127.0.0.0", "169.254.0.0", "224.0.0.0", "239.1.1.1", "::", "fe80::", "ff02::", "fd00::", "::ffff:0:0"}).Draw(t, "prefix")
		a := netip.MustParseAddr(prefix).As16()
		a[rapid.IntRange(0, 15).Draw(t, "at")] ^= rapid.Byte().Draw(t, "xor")
		ref := netip.AddrFrom16(a).Unmap()
		for name, c := range map[string][2]bool{
			"IPv4": {IsIPv4(a), ref.Is4()}, "unspecified": {IsUnspecified(a), ref.IsUnspecified()},
			"loopback": {IsLoopback(a), ref.IsLoopback()}, "multicast": {IsMulticast(a), ref.IsMulticast()},
			"link-local": {IsLinkLocal(a), ref.IsLinkLocalUnicast()},
		} {
			if c[0] != c[1] {
				t.Fatalf("%v: %s is %v, netip says %v", ref, name, c[0], c[1])
			}
		}
	})
}

// RFC 1112 §6.4: IPv4 groups map to 01:00:5e with 23 bits of the address
// RFC 2464 §7: IPv6 groups map to 33:33 with 32 bits of the address
func TestMulticastMAC(t *testing.T) {
	t.Parallel()
	if got := MulticastMAC(addr("239.129.2.3")); got != [6]byte{1, 0, 0x5e, 1, 2, 3} {
		t.Errorf("got %x", got)
	}
	if got := MulticastMAC(SolicitedNode(addr("fd00::12:3456"))); got != [6]byte{0x33, 0x33, 0xff, 0x12, 0x34, 0x56} {
		t.Errorf("got %x", got)
	}
	if !IsGroupMAC(BroadcastMAC()) || !IsGroupMAC([6]byte{1}) || IsGroupMAC([6]byte{2}) {
		t.Error("IsGroupMAC is wrong")
	}
}
