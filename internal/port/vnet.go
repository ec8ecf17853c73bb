package port

import "encoding/binary"

// Lengths of the header that a kernel device has in front of a frame
// (<linux/virtio_net.h>), in bytes. All begin with the same ten.
const (
	VnetLen       = 10 // struct virtio_net_hdr
	VnetMergeLen  = 12 // struct virtio_net_hdr_mrg_rxbuf
	VnetTunnelLen = 24 // struct virtio_net_hdr_v1_hash_tunnel
)

const (
	ethHdrLen = 14
	udpHdrLen = 8
	// tcpDataOff is where a TCP header has its length, in the upper four bits, in
	// units of four bytes (RFC 9293 section 3.1).
	tcpDataOff = 12
	minIPv4Len = 20
)

// DecodeVnet reads a struct virtio_net_hdr, which the kernel's packet sockets and
// TAP devices have in host byte order.
func DecodeVnet(h *[VnetLen]byte) Offload {
	return Offload{
		Flags:      h[0],
		GSOType:    h[1],
		HdrLen:     binary.NativeEndian.Uint16(h[2:4]),
		GSOSize:    binary.NativeEndian.Uint16(h[4:6]),
		CsumStart:  binary.NativeEndian.Uint16(h[6:8]),
		CsumOffset: binary.NativeEndian.Uint16(h[8:10]),
	}
}

// EncodeVnet writes the header of f into all of h, which is one of the lengths
// above; only VnetTunnelLen has room for a tunnel superpacket's offsets. It reports
// false where offsets point outside the frame. Features.Accepts has seen f.
func EncodeVnet(h []byte, f *Frame) bool {
	clear(h)
	o := &f.Offload
	if o.Flags&NeedsCsum == 0 {
		return true // DataValid is ignored by the kernel on this path
	}
	start := int(o.CsumStart)
	if start < ethHdrLen || start+int(o.CsumOffset)+2 > f.Len() {
		return false
	}
	h[0] = NeedsCsum
	binary.NativeEndian.PutUint16(h[6:8], o.CsumStart)
	binary.NativeEndian.PutUint16(h[8:10], o.CsumOffset)
	if o.GSOType == GSONone {
		return true
	}
	// hdr_len is the length of all headers, which go to every segment: the value
	// that came with the frame is only the sender's linear length.
	hdrLen := start + udpHdrLen
	if o.GSOType&gsoTypeMask != GSOUDPL4 {
		if start+tcpDataOff >= f.Len() {
			return false
		}
		hdrLen = start + int(f.Buf[f.Start+start+tcpDataOff]>>4)*4
	}
	if hdrLen > f.Len() {
		return false
	}
	h[1] = o.GSOType
	binary.NativeEndian.PutUint16(h[2:4], uint16(hdrLen))
	binary.NativeEndian.PutUint16(h[4:6], o.GSOSize)
	return o.GSOType&gsoTunnelMask == 0 || encodeTunnel(h, o)
}

// encodeTunnel adds what a tunnel superpacket has more. These two fields are
// little-endian on every host.
func encodeTunnel(h []byte, o *Offload) bool {
	outer, inner := int(o.OuterL4), int(o.InnerL3)
	if len(h) < VnetTunnelLen || outer < ethHdrLen+minIPv4Len ||
		inner < outer+udpHdrLen || int(o.CsumStart) < inner+minIPv4Len {
		return false
	}
	binary.LittleEndian.PutUint16(h[20:22], o.OuterL4)
	binary.LittleEndian.PutUint16(h[22:24], o.InnerL3)
	return true
}
