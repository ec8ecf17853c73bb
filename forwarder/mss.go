package forwarder

import (
	"encoding/binary"

	"github.com/vrouter-go/vrouter/flowtable"
	"github.com/vrouter-go/vrouter/internal/header"
	"github.com/vrouter-go/vrouter/nexthop"
)

// A segment that fits the sender's interface may not fit a tunnel. Path MTU discovery
// repairs that, where ICMP errors pass; the SYN segments, which say what a side can
// receive, spare the loss.

const (
	optionMSS       = 2 // RFC 9293 §3.2
	optionMSSLength = 4
)

// clamp lowers the maximum segment size that a SYN segment offers to what fits the
// tunnels of its session, the one that it leaves by and the one that the answers
// do, and repairs the checksum. The packet has been translated.
func (w *Worker) clamp(p *packet, s *flowtable.Session, dir flowtable.Direction, x *exit) {
	mtu := x.mtu
	if x.tunnel == nil {
		mtu = maxOuterLength
	}
	hop := w.snap.NextHops.At(nexthop.ID(s.Decision().NextHop(1 - dir)))
	if hop.Kind == nexthop.Tunnel && int(hop.Index) < len(w.snap.tunnels) {
		if t := &w.snap.tunnels[hop.Index]; t.mtu > 0 {
			mtu = min(mtu, int(t.mtu))
		}
	}
	most := mtu - header.IPv4MinimumLength - header.TCPMinimumLength // RFC 6691 §2: options do not count
	if p.l.Version == 6 {
		most = mtu - header.IPv6Length - header.TCPMinimumLength
	}
	b := p.bytes()
	tcp := header.TCP(b[p.l.L4:p.l.Payload])
	at := mssAt(tcp.Options())
	if at < 0 || most <= 0 {
		return
	}
	field := tcp[header.TCPMinimumLength+at:]
	was := binary.BigEndian.Uint16(field)
	if int(was) <= most {
		return
	}
	is := uint16(most)
	binary.BigEndian.PutUint16(field, is)
	if p.partial() {
		return // the device sums it up
	}
	change := header.WordDelta(was, is)
	if at%2 != 0 { // it lies across two words of the sum: its bytes change places
		change = header.WordDelta(was<<8|was>>8, is<<8|is>>8)
	}
	tcp.SetChecksum(change.Apply(tcp.Checksum()))
}

// mssAt returns where in the options the value of the MSS option is, -1 where there
// is none or the options are not as they should be (RFC 9293 §3.1).
func mssAt(options []byte) int {
	for i := 0; i < len(options) && options[i] != optionEnd; {
		if options[i] == optionNop {
			i++
			continue
		}
		if i+1 >= len(options) || options[i+1] < 2 || i+int(options[i+1]) > len(options) {
			return -1
		}
		if options[i] == optionMSS {
			if options[i+1] != optionMSSLength {
				return -1
			}
			return i + 2
		}
		i += int(options[i+1])
	}
	return -1
}
