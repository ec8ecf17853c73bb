package forwarder

import "sync/atomic"

// PortCounters are one port's totals. Over all ports rx + Generated = tx +
// Coalesced + sum(Drops) + Held, where Held is what fragment reassembly keeps at
// the moment.
type PortCounters struct {
	RxPackets, RxBytes uint64 // frames and bytes read from the port
	TxPackets, TxBytes uint64 // frames and bytes the port accepted
	Generated          uint64 // frames the router made itself because of this ingress port: ICMP errors, resets, segments beyond the first
	Coalesced          uint64 // frames that the port accepted inside another frame, merged with it
	Held               uint64 // fragments of this ingress port waiting for their head
	Drops              [NumDropReasons]uint64
}

// portCounters is one worker's share of a port's counters. The worker alone
// writes it, with atomic stores so that readers see whole values.
type portCounters struct {
	rxPackets, rxBytes atomic.Uint64
	txPackets, txBytes atomic.Uint64
	generated, held    atomic.Uint64
	coalesced          atomic.Uint64
	drops              [NumDropReasons]atomic.Uint64
}

// add sums this share into total.
func (c *portCounters) add(total *PortCounters) {
	total.RxPackets += c.rxPackets.Load()
	total.RxBytes += c.rxBytes.Load()
	total.TxPackets += c.txPackets.Load()
	total.TxBytes += c.txBytes.Load()
	total.Generated += c.generated.Load()
	total.Coalesced += c.coalesced.Load()
	total.Held += c.held.Load()
	for i := range c.drops {
		total.Drops[i] += c.drops[i].Load()
	}
}
