package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/forwarder"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// The policy log is written at most this often; what is beyond is counted.
const (
	policyLogInterval = 250 * time.Millisecond
	policyLogPerRound = 250
)

// drainPolicyLog writes one line for each connection that a rule with the log
// action decided.
func (a *Agent) drainPolicyLog(ctx context.Context) error {
	tick := time.NewTicker(policyLogInterval)
	defer tick.Stop()
	var reported uint64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		written, beyond := 0, uint64(0)
		snap, names := a.options.Forwarder.Snapshot(), a.names.Load()
		lost := a.options.Forwarder.DrainPolicyLog(func(r forwarder.PolicyRecord) {
			if written++; written > policyLogPerRound {
				beyond++
				return
			}
			a.log.LogAttrs(ctx, slog.LevelInfo, "policy", policyAttrs(snap, names.Rule(r.Rule), &r)...)
		})
		if beyond > 0 || lost > reported {
			a.log.Warn("policy log is too fast: lines were left out", "lines", beyond+lost-reported)
			reported = lost
		}
	}
}

func policyAttrs(snap *forwarder.Snapshot, rule string, r *forwarder.PolicyRecord) []slog.Attr {
	verdict := "PASS"
	if r.Reason != forwarder.DropUnknown {
		verdict = r.Reason.String()
	}
	return []slog.Attr{
		slog.String("rule", rule), slog.String("verdict", verdict), slog.String("interface", portName(snap, r.Port)),
		slog.String("source", endpoint(r.Forward.Src, r.Forward.SrcPort)),
		slog.String("destination", endpoint(r.Forward.Dst, r.Forward.DstPort)),
		slog.String("protocol", pb.Protocol_Value(r.Forward.Proto).String()),
	}
}

func endpoint(a [16]byte, port uint16) string {
	return netip.AddrPortFrom(netip.AddrFrom16(a).Unmap(), port).String()
}

// portName returns the name of the interface at a port, "" if there is none.
func portName(snap *forwarder.Snapshot, port uint16) string {
	if int(port) < len(snap.Interfaces) {
		return snap.Interfaces[port].Name
	}
	return ""
}

// tuple writes a key as the API does.
func tuple(k flowtable.Key) *pb.Tuple {
	return &pb.Tuple{
		Source:      netip.AddrFrom16(k.Src).Unmap().String(),
		Destination: netip.AddrFrom16(k.Dst).Unmap().String(),
		Protocol:    pb.Protocol_Value(k.Proto),
		SourcePort:  uint32(k.SrcPort), DestinationPort: uint32(k.DstPort),
	}
}

// addressText writes a 16-byte address.
func addressText(a [16]byte) string { return netip.AddrFrom16(a).Unmap().String() }
