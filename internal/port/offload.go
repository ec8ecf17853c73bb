package port

const (
	// gsoTunnelMask leaves the family of a tunnel superpacket's outer header.
	gsoTunnelMask = GSOTunnelIPv4 | GSOTunnelIPv6
	// gsoTypeMask leaves the GSO type without the bits that stand beside it.
	gsoTypeMask = ^(GSOECN | gsoTunnelMask)
)

// Accepts reports whether a device with features f takes a frame with offload o
// as it is. A superpacket always needs NeedsCsum: the checksum of each segment is
// computed where the segment is cut (virtio 1.2, 5.1.6.2). Where it returns false
// the sender segments the frame and completes its checksum first.
func (f Features) Accepts(o Offload) bool {
	need := Features(0)
	switch o.GSOType & gsoTypeMask {
	case GSONone:
		if o.GSOType&gsoTunnelMask != 0 {
			return false
		}
	case GSOTCPv4:
		need = FeatureTSO4
	case GSOTCPv6:
		need = FeatureTSO6
	case GSOUDPL4:
		need = FeatureUSO
	default:
		return false
	}
	if need != 0 && (o.GSOSize == 0 || o.Flags&NeedsCsum == 0) {
		return false
	}
	switch o.GSOType & gsoTunnelMask {
	case GSOTunnelIPv4, GSOTunnelIPv6:
		need |= FeatureTunnelGSO
	case gsoTunnelMask: // a tunnel has one outer header
		return false
	}
	if o.Flags&NeedsCsum != 0 {
		need |= FeatureCsum
	}
	return f&need == need
}
