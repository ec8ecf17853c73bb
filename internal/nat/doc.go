// Package nat answers which external port stands for an internal endpoint: the
// port table of source translation.
//
// Mapping is endpoint-independent (RFC 4787 REQ-1, RFC 5382 REQ-1): an endpoint,
// which is VRF, address and port, keeps one external port to all destinations for
// as long as a session uses it. A port is never given to two endpoints at once
// (RFC 4787 REQ-3, RFC 5382 REQ-7). TCP, UDP, SCTP and ICMP identifiers are
// numbered apart, and an endpoint's mapping in one says nothing about the others.
//
// Which port it is: the first free one from a start that a keyed hash of the
// endpoint gives (RFC 6056 §3.3.3), so that nobody outside can foresee it. Neither
// the endpoint's number nor its parity is kept (RFC 7857 takes the wish for parity
// back and wants random ports).
//
// A port that nobody uses any more is held for its endpoint for HoldDown before
// another gets it (RFC 6888 REQ-8), for late packets of the old connection must not
// reach a new one. When every port of the range is in use or held, the one that has
// been held the longest is given away early: the same requirement allows that where
// filtering is address and port dependent, as the forwarder's is. When all are in
// use there is none, and the connection fails.
//
// The table holds no pointers below the list of addresses and allocates only when
// an address is added. A lock is held for the time of one search; it is taken for
// new and ended sessions, never for a packet of a known one.
package nat
