// Package header is the wire layer: views over Ethernet, ARP, IPv4, IPv6, TCP,
// UDP, SCTP and ICMP headers, one parser that judges a frame once, checksums and
// the builders for the few packets the forwarder writes itself.
//
// # Validity contract
//
// A view (IPv4, TCP, ...) is a byte slice with a name; it judges nothing. Its
// accessors are safe, and only then, when the slice holds at least the header's
// minimum length. Parse establishes this for a whole frame: after it returned
// FaultNone, 0 <= L3 <= L4 <= Payload <= End <= len(frame), and the views at L3
// and L4 are safe for the family and protocol that the Layout names, except at
// the L4 of a fragment other than the first, which has no transport header.
// Writing a length field (header length, total length, data offset) through a
// setter voids the contract until the frame is parsed again; every other setter
// keeps it. Input that Parse has not accepted must not be given to a view.
// ParseInner gives the same promise for the packet quoted in an ICMP error, with
// one difference: of its transport header only the first 8 bytes are sure.
//
// # Addresses
//
// Addresses are 16 bytes, IPv4 as v4-mapped ::ffff:a.b.c.d (RFC 4291 §2.5.5.2),
// so that one code serves both families. An IPv6 packet that carries such an
// address on the wire is a fault: it would be taken for IPv4.
//
// Nothing here allocates, keeps state, or refers to a buffer after it returned;
// every function may be called from any goroutine that owns the bytes.
package header
