package bfd

import (
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"pgregory.net/rapid"
)

// anyPacket draws one that may be sent.
func anyPacket() *rapid.Generator[packet] {
	return rapid.Custom(func(t *rapid.T) packet {
		us := func(name string) time.Duration {
			return time.Duration(rapid.Uint32().Draw(t, name)) * time.Microsecond
		}
		return packet{
			state: State(rapid.IntRange(0, 3).Draw(t, "state")), diag: Diagnostic(rapid.IntRange(0, 31).Draw(t, "diag")),
			poll: rapid.Bool().Draw(t, "poll"), final: rapid.Bool().Draw(t, "final"), demand: rapid.Bool().Draw(t, "demand"),
			mult: rapid.Uint8Min(1).Draw(t, "mult"),
			my:   rapid.Uint32Min(1).Draw(t, "my"), your: rapid.Uint32().Draw(t, "your"),
			minTx: us("min tx"), minRx: us("min rx"), minEc: us("min echo"),
		}
	})
}

// same compares with gopacket's reading.
func same(p packet, w *layers.BFD) bool {
	us := func(d time.Duration) layers.BFDTimeInterval { return layers.BFDTimeInterval(d / time.Microsecond) }
	return w.Version == 1 && uint8(w.State) == uint8(p.state) && uint8(w.Diagnostic) == uint8(p.diag) &&
		w.Poll == p.poll && w.Final == p.final && w.AuthPresent == p.auth && w.Demand == p.demand && !w.Multipoint &&
		uint8(w.DetectMultiplier) == p.mult && uint32(w.MyDiscriminator) == p.my && uint32(w.YourDiscriminator) == p.your &&
		w.DesiredMinTxInterval == us(p.minTx) && w.RequiredMinRxInterval == us(p.minRx) && w.RequiredMinEchoRxInterval == us(p.minEc)
}

// RFC 5880 §4.1: gopacket reads what we write, and we read it back
func TestPacketFormat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPacket().Draw(t, "packet")
		b := p.encode()
		var w layers.BFD
		if err := w.DecodeFromBytes(b[:], gopacket.NilDecodeFeedback); err != nil || !same(p, &w) {
			t.Fatalf("%+v: gopacket reads %+v, %v", p, w, err)
		}
		if got, why := decode(b[:]); why != discardNone || got != p {
			t.Fatalf("read back: %+v, %v; want %+v", got, why, p)
		}
	})
}

// good is a packet that decode lets pass.
func good() []byte {
	b := packet{state: Up, mult: 3, my: 7, your: 9, minTx: time.Second, minRx: time.Second}.encode()
	return b[:]
}

func TestDecodeDiscards(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   discard
	}{
		{"as it is", func(b []byte) []byte { return b }, discardNone},
		// RFC 5880 §6.8.6: a wrong version is discarded
		{"version", func(b []byte) []byte { b[0] = b[0]&0x1f | 2<<5; return b }, discardVersion},
		// RFC 5880 §6.8.6: the version is looked at before the length
		{"version before length", func(b []byte) []byte { b[0], b[3] = 0, 1; return b }, discardVersion},
		// RFC 5880 §6.8.6: a length below 24 is discarded
		{"length 23", func(b []byte) []byte { b[3] = 23; return b }, discardLength},
		// RFC 5880 §6.8.6: a length below 26 with the A bit is discarded
		{"length 25 with authentication", func(b []byte) []byte { b[1] |= bitAuth; b[3] = 25; return append(b, 0, 0) }, discardLength},
		// RFC 5880 §6.8.6: a length beyond the payload is discarded
		{"length beyond the payload", func(b []byte) []byte { b[3] = 25; return b }, discardLength},
		// RFC 5880 §6.8.6: the length is looked at before the multiplier
		{"length before multiplier", func(b []byte) []byte { b[2], b[3] = 0, 23; return b }, discardLength},
		{"no length at all", func(b []byte) []byte { return b[:3] }, discardLength},
		{"nothing", func(b []byte) []byte { return nil }, discardLength},
		// RFC 5880 §6.8.6: a multiplier of 0 is discarded
		{"multiplier", func(b []byte) []byte { b[2] = 0; return b }, discardMultiplier},
		// RFC 5880 §6.8.6: the multiplier is looked at before the M bit
		{"multiplier before multipoint", func(b []byte) []byte { b[2] = 0; b[1] |= bitMultipoint; return b }, discardMultiplier},
		// RFC 5880 §6.8.6: the M bit is discarded
		{"multipoint", func(b []byte) []byte { b[1] |= bitMultipoint; return b }, discardMultipoint},
		// RFC 5880 §6.8.6: the M bit is looked at before the discriminator
		{"multipoint before discriminator", func(b []byte) []byte { b[1] |= bitMultipoint; clear(b[4:8]); return b }, discardMultipoint},
		// RFC 5880 §6.8.6: a My Discriminator of 0 is discarded
		{"my discriminator", func(b []byte) []byte { clear(b[4:8]); return b }, discardMyDiscriminator},
		{"bytes behind it", func(b []byte) []byte { return append(b, 1, 2, 3) }, discardNone},
		{"authentication", func(b []byte) []byte { b[1] |= bitAuth; b[3] = 26; return append(b, 0, 0) }, discardNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, why := decode(c.change(good())); why != c.want {
				t.Errorf("%v; want %v", why, c.want)
			}
		})
	}
}

// FuzzDecode compares with gopacket whatever decode lets pass.
func FuzzDecode(f *testing.F) {
	f.Add(good())
	f.Add(append(good(), 0, 0))
	f.Add([]byte{0x20, 0xc0, 3, 24})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, why := decode(b)
		if why != discardNone {
			if p != (packet{}) || why >= discards || why.String() == "" {
				t.Fatalf("discarded by %d with %+v", why, p)
			}
			return
		}
		if p.auth {
			return // gopacket wants the authentication section to make sense
		}
		b = append([]byte(nil), b[:packetSize]...) // and nothing behind the packet
		b[3] = packetSize
		var w layers.BFD
		if err := w.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil || !same(p, &w) {
			t.Fatalf("% x: %+v; gopacket reads %+v, %v", b, p, w, err)
		}
		control := b[1] & 0x08 // the C bit is not kept
		if again := p.encode(); again[1]|control != b[1] || again[0] != b[0] || string(again[4:]) != string(b[4:packetSize]) {
			t.Fatalf("% x is written as % x", b, again)
		}
	})
}
