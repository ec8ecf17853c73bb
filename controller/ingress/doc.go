// Package ingress serves the Ingresses of a cluster with one HAProxy, which runs
// beside it in its network namespace. It watches Ingresses and what they name, makes
// a routing.Table of them and gives it to a haproxy.Proxy: one loop, one table at a
// time, nothing per object. Any number of replicas do this side by side; each serves,
// and all write the same status.
//
// It needs no agent: pods are reached at their addresses over the pod network, so TLS
// keys stay between the API server, this process and its HAProxy.
package ingress
