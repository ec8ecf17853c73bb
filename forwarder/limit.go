package forwarder

// replyLimit is a token bucket for what the router sends on its own account
// because of one port: ICMP errors and resets (RFC 1812 §4.3.2.8, RFC 4443
// §2.4 f), and what it has the kernel send, who asks for hosts on the uplink's link. Errors and resets have tokens of their own, because a refused
// connection must be answered at once (Kubernetes) while errors are a courtesy.
// The zero value is full. 16 bytes, pointer-free.
type replyLimit struct {
	last   uint32 // tick of the last refill
	spentE uint32 // tokens used for errors
	spentR uint32 // tokens used for resets and refusals
	spentW uint32 // tokens used for telling the agent of hosts on the uplink's link
}

// Rates in tokens per tick of 100 ms, and the depth of the buckets.
const (
	errorRate, errorBurst     = 10, 100   // 100 ICMP errors a second
	refusalRate, refusalBurst = 100, 1000 // 1,000 refusals a second
	wantedRate, wantedBurst   = 1, 40     // 10 hosts a second
)

// refill gives back the tokens earned since the last call.
func (l *replyLimit) refill(now uint32) {
	ticks := now - l.last
	if ticks == 0 {
		return
	}
	l.last = now
	l.spentE -= min(l.spentE, saturate(ticks, errorRate))
	l.spentR -= min(l.spentR, saturate(ticks, refusalRate))
	l.spentW -= min(l.spentW, saturate(ticks, wantedRate))
}

// saturate multiplies without wrapping.
func saturate(a, b uint32) uint32 {
	return uint32(min(uint64(a)*uint64(b), 1<<31))
}

// errorAllowed takes a token for an ICMP error.
func (l *replyLimit) errorAllowed(now uint32) bool {
	l.refill(now)
	if l.spentE >= errorBurst {
		return false
	}
	l.spentE++
	return true
}

// refusalAllowed takes a token for a reset or an unreachable about a refused
// connection.
func (l *replyLimit) refusalAllowed(now uint32) bool {
	l.refill(now)
	if l.spentR >= refusalBurst {
		return false
	}
	l.spentR++
	return true
}

// wantAllowed takes a token for telling the agent of a host on the uplink's link. Half
// of them are kept for those that are not known.
func (l *replyLimit) wantAllowed(now uint32, known bool) bool {
	l.refill(now)
	if l.spentW >= wantedBurst || known && l.spentW >= wantedBurst/2 {
		return false
	}
	l.spentW++
	return true
}
