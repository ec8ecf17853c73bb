// Package routing answers which pods serve a request: it makes one Table of the
// Ingresses of a cluster and of what they name. It is pure and trusts nothing that
// an Ingress, a Secret or an EndpointSlice says: what enters a Table has been checked
// to be a host name, a path that a request can have, a name of Kubernetes or a pod's
// address, and everything else becomes a Problem.
//
// Which rule answers a request, in this order:
//
//  1. rules for exactly its host, then rules for the wildcard over its first label,
//     then rules without a host;
//  2. among the rules of one of these, an Exact path, then the longest Prefix, by
//     whole elements;
//  3. with no rule at all, the default backend that belongs to its host, to the
//     wildcard, or to all hosts.
//
// Where two Ingresses say different things of one host and path, the older wins.
package routing
