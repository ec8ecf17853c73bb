// Package controller is the Kubernetes control plane of one node: it follows the cluster
// and says what the node's agent shall have.
//
//	informers ──► model.Watch ──► model.View ──► compiler ──► Change ──► agent
//	              what changed     the cluster    network      one
//	                               and indexes    service      transaction
//	                                              policy
//
// Handlers of informers only note what has changed. One goroutine takes that up, a few
// milliseconds later and never more than half of the time, compiles the parts that it
// concerns and hands on how the result differs.
package controller
