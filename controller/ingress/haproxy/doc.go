// Package haproxy runs one HAProxy that serves a routing.Table: it writes its
// files, supervises its master process and changes what it can through the runtime
// socket.
//
// What a request needs is in three places, by how often it changes:
//
//   - servers (pods) are added and removed through the runtime socket;
//   - routes are a map file, replaced as one through the runtime socket;
//   - backends (ports of Services) and certificates are configuration: a new one
//     is a new generation of files, checked by `haproxy -c` and loaded by a reload of
//     the master, which hands the listening sockets on.
//
// Each generation is a directory of its own, so that the running one stays whole
// until the next has been checked and beyond.
//
// Nothing from a Table is written into haproxy.cfg but names and addresses that
// package routing has checked letter by letter; hosts and paths are keys of the map
// and of the list of certificates.
package haproxy
