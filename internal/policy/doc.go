// Package policy answers "may it pass?". The agent compiles NetworkPolicy and
// SecurityPolicy rules into an immutable Set; a worker asks it once for a new
// flow, and the session keeps the verdict with the rule that decided.
//
// Network policy joins virtual networks: ordered rules, the first that matches
// decides, nothing matches means deny. It is asked before NAT. Security policy
// has the semantics of Kubernetes NetworkPolicy on label identities: a union of
// allows, per pod and direction. It is asked after NAT.
//
// A Set never changes and any number of goroutines may read it. Evaluation
// neither allocates nor walks the rules: its cost follows the number of nested
// prefixes around the two addresses, not the number of rules
// (docs/design/0004-policy.md).
package policy
