package forwarder

import (
	"sync/atomic"

	"github.com/vrouter-go/vrouter/flowtable"
)

// policyLogSize is how many records a worker keeps for the agent to fetch, a
// power of two.
const policyLogSize = 1024

// PolicyRecord is one connection that a rule with the log action decided.
type PolicyRecord struct {
	Tick    uint32 // session time
	Rule    uint32
	Port    uint16 // where the initiator is
	Reason  DropReason
	Forward flowtable.Key
	Reply   flowtable.Key
}

// policyLog is a ring from one worker to the agent. When the agent does not keep
// up, records are lost and counted; the worker never waits.
type policyLog struct {
	head, tail atomic.Uint64 // written by the worker; by the agent
	lost       atomic.Uint64
	ring       [policyLogSize]PolicyRecord
}

// note records a decision that a rule wants logged.
func (w *Worker) note(d *decision, p *packet) {
	l := &w.policyLog
	head := l.head.Load()
	if head-l.tail.Load() == policyLogSize {
		l.lost.Add(1)
		return
	}
	l.ring[head%policyLogSize] = PolicyRecord{
		Tick: w.now, Rule: d.rule, Port: p.in, Reason: d.reason, Forward: p.key, Reply: d.reply,
	}
	l.head.Store(head + 1)
}

// DrainPolicyLog hands every waiting record to fn and returns how many were
// lost since the start. It belongs to one goroutine.
func (f *Forwarder) DrainPolicyLog(fn func(PolicyRecord)) (lost uint64) {
	for _, w := range f.workers {
		l := &w.policyLog
		for tail := l.tail.Load(); tail != l.head.Load(); tail++ {
			record := l.ring[tail%policyLogSize]
			l.tail.Store(tail + 1)
			fn(record)
		}
		lost += l.lost.Load()
	}
	return lost
}
