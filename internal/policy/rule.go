package policy

import "strconv"

// RuleID names what decided: a rule, by the id the agent gave it, or one of the
// named reasons below FirstRule. Sessions keep it.
type RuleID uint32

// The named reasons. RuleNone is never in a verdict.
const (
	RuleNone           RuleID = iota
	RuleSameNetwork           // pass: source and destination are in one virtual network
	RuleImplicitDeny          // deny: no network policy rule matches
	RuleNoPolicy              // pass: no security policy selects either end
	RuleDefaultEgress         // deny: a policy selects the source for egress and no rule allows this
	RuleDefaultIngress        // deny: a policy selects the destination for ingress and no rule allows this
	RuleNode                  // pass: between a pod and its own node, probes included
	RuleSelf                  // pass: a pod cannot block itself
	RuleSourceNode            // pass: came through a tunnel, and the node that sent it has asked the network policy

	numReasons

	// FirstRule is the first id the agent may give to a rule.
	FirstRule RuleID = 256
)

// String returns the reason's name, or the rule's number.
func (r RuleID) String() string {
	if r >= numReasons {
		return "rule " + strconv.FormatUint(uint64(r), 10)
	}
	return [numReasons]string{
		"none", "same-network", "implicit-deny", "no-security-policy",
		"default-deny-egress", "default-deny-ingress", "own-node", "self", "judged-by-source-node",
	}[r]
}

// Stage says which question a verdict answers.
type Stage uint8

// The stages, in the order in which a packet meets them.
const (
	StageNetwork Stage = iota
	StageEgress
	StageIngress

	numStages
)

// String returns the stage's name.
func (s Stage) String() string {
	if s >= numStages {
		return "stage(" + strconv.Itoa(int(s)) + ")"
	}
	return [numStages]string{"network-policy", "security-policy-egress", "security-policy-ingress"}[s]
}

// Action is what a network rule does with a packet that it matches. The zero
// value denies.
type Action uint8

// The actions.
const (
	Deny Action = iota
	Pass

	numActions
)

// PortRange is the ports From to To, both included. The zero value is any port.
type PortRange struct{ From, To uint16 }

// bounds returns the first and last port.
func (p PortRange) bounds() (from, to uint16) {
	if p == (PortRange{}) {
		return 0, 65535
	}
	return p.From, p.To
}

// Query is the flow that is asked about. Addresses are 16 bytes, IPv4 v4-mapped;
// ports are 0 for protocols without ports.
type Query struct {
	SrcNetwork, DstNetwork uint32 // for Network only; 0 = in no network
	Src, Dst               [16]byte
	SrcPort, DstPort       uint16
	Proto                  uint8 // IANA protocol number
}

// Verdict is the answer. 8 bytes. The zero value denies.
type Verdict struct {
	Rule  RuleID // what decided
	Stage Stage  // where
	Pass  bool
	Log   bool // a rule that took part asks for a log line
}
