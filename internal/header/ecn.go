package header

// The ECN codepoints, the low two bits of the type of service or traffic class
// (RFC 3168 §5).
const (
	ECNNotCapable uint8 = iota
	ECNCapable1
	ECNCapable0
	ECNCongestion

	ecnMask = 3
)

// lostECN marks what is to be dropped in decapsulated.
const lostECN uint8 = 0xff

// decapsulated is the codepoint that a packet leaves a tunnel with, by its own and
// the tunnel's (RFC 6040 §4.2, figure 4).
var decapsulated = [ecnMask + 1][ecnMask + 1]uint8{
	ECNNotCapable: {ECNCongestion: lostECN},
	ECNCapable1:   {ECNCapable1, ECNCapable1, ECNCapable1, ECNCongestion},
	ECNCapable0:   {ECNNotCapable: ECNCapable0, ECNCapable1: ECNCapable1, ECNCapable0: ECNCapable0, ECNCongestion: ECNCongestion},
	ECNCongestion: {ECNCongestion, ECNCongestion, ECNCongestion, ECNCongestion},
}

// Decapsulated returns the type of service that a packet leaves a tunnel with whose
// own is inner and its tunnel's outer: the inner one with the congestion that the
// tunnel met (RFC 6040 §4.2). It returns false where the packet is to be dropped:
// the tunnel met congestion, and the packet's ends would not hear of it.
func Decapsulated(inner, outer uint8) (tos uint8, ok bool) {
	ecn := decapsulated[inner&ecnMask][outer&ecnMask]
	return inner&^ecnMask | ecn&ecnMask, ecn != lostECN
}
