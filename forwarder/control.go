package forwarder

import "github.com/vrouter-go/vrouter/flowtable"

// EndSession removes a live session, as an operator asks; its next packet is
// decided anew. It reports whether there was one. Control path: the caller found
// the session by Table.Range and is still inside it.
func (f *Forwarder) EndSession(ref flowtable.Ref) bool {
	if !f.flows.Remove(ref) {
		return false
	}
	f.ended(f.flows.Session(ref), f.Now())
	return true
}
