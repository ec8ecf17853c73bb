// Package bfd answers: is that node still there? It speaks Bidirectional Forwarding
// Detection with other nodes: RFC 5880 in asynchronous mode, between neighbours on
// a link (RFC 5881, UDP port 3784) and over any number of hops (RFC 5883, UDP port
// 4784), over IPv4 and IPv6 alike.
//
// A Speaker holds one session for each Peer. packet.go, session.go and table.go are
// the protocol: no socket, no goroutine, no clock but the one that is handed in.
// socket.go and speaker.go connect it to the kernel.
//
// Not supported: authentication (RFC 5880 §6.7; packets with the A bit are
// discarded, so what protects a session is the TTL, see Peer.MinTTL), the Echo
// function (§6.4; we advertise that we loop nothing back), Demand mode of our own
// (§6.6; a peer that asks for it is honoured), the passive role (§6.1) and sessions
// that come into being because somebody speaks to us (§6.8.6 leaves it open).
package bfd
