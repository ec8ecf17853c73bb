// Package port is the edge of the forwarder: Ethernet frames in and out of a
// device. Drivers live in the folders below (tap, afpacket, memory, pcap); the forwarder
// sees only Device and Queue, in batches.
package port

const (
	// Headroom is the room kept in front of a received frame, in bytes, so that
	// a virtio_net_hdr (12 to 24 bytes) or a tunnel header is written in place.
	Headroom = 256
	// MaxFrame is the longest frame a queue hands over, in bytes: a 64 KiB
	// superpacket with its Ethernet header and room to spare.
	MaxFrame = 65536 + 64
	// BufferSize is the size of a Frame's buffer.
	BufferSize = Headroom + MaxFrame
	// BatchSize is the most frames one Read or Write moves.
	BatchSize = 64
)

// GSO types and flags of Offload, numbered as in <linux/virtio_net.h>.
const (
	GSONone  uint8 = 0
	GSOTCPv4 uint8 = 1
	GSOTCPv6 uint8 = 4
	GSOUDPL4 uint8 = 5
	GSOECN   uint8 = 0x80 // bit beside the type: the TCP segments carry CWR/ECE

	// One of these beside the type makes a tunnel superpacket: each segment is to be
	// a whole UDP datagram with tunnel header, inner headers and one inner segment
	// (VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 and _IPV6). It names the outer family;
	// type, GSOSize, CsumStart and CsumOffset are about the inner packet, OuterL4
	// and InnerL3 say where the headers are. An outer UDP checksum of zero stays
	// zero; any other value must be the folded sum of the outer pseudo-header, and
	// every segment gets a complete one.
	GSOTunnelIPv4 uint8 = 0x20
	GSOTunnelIPv6 uint8 = 0x40

	// NeedsCsum says the L4 checksum field holds only the folded pseudo-header
	// sum; the sum from CsumStart to the end belongs at CsumStart+CsumOffset.
	NeedsCsum uint8 = 1
	// DataValid says the device has verified the L4 checksum.
	DataValid uint8 = 2
)

// Offload is what travels beside a frame: the fields of struct virtio_net_hdr and
// of its longer form for tunnels (<linux/virtio_net.h>), in host byte order,
// offsets counted from the first byte of the Ethernet header. The zero value is a
// plain frame with a complete checksum.
type Offload struct {
	Flags      uint8
	GSOType    uint8
	HdrLen     uint16
	GSOSize    uint16 // payload bytes of each segment
	CsumStart  uint16
	CsumOffset uint16
	OuterL4    uint16 // the outer UDP header; tunnel superpackets only
	InnerL3    uint16 // the inner IP header; tunnel superpackets only
}

// Lost says why a queue did not send a frame. Zero means it was sent.
type Lost uint8

// What became of a frame.
const (
	Sent         Lost = iota
	LostFull          // the device's queue was full
	LostDown          // the device is down or gone
	LostRejected      // the device refused the frame (bad length or offload)
)

// Frame is one Ethernet frame in a buffer of BufferSize bytes. The frame's bytes
// are Buf[Start:End]. A Frame belongs to one goroutine at a time: the reader
// until Read returns, then the worker, then the queue until Write returns. No
// queue keeps a reference after Write.
type Frame struct {
	Buf        []byte
	Start, End int
	Offload    Offload
	Time       int64 // capture time in ns since the epoch; only the pcap and memory drivers set it
	Lost       Lost  // set by Queue.Write
}

// NewFrame returns an empty frame with its own buffer.
func NewFrame() *Frame {
	return &Frame{Buf: make([]byte, BufferSize), Start: Headroom, End: Headroom}
}

// NewFrames returns n empty frames whose buffers lie side by side. BufferSize is
// an odd number of cache lines, so the headers of a batch fall into different sets
// of a processor's first-level cache; buffers that each begin a page would all
// fight for the same one.
func NewFrames(n int) []*Frame {
	bytes, frames, list := make([]byte, n*BufferSize), make([]Frame, n), make([]*Frame, n)
	for i := range list {
		frames[i] = Frame{Buf: bytes[i*BufferSize : (i+1)*BufferSize : (i+1)*BufferSize], Start: Headroom, End: Headroom}
		list[i] = &frames[i]
	}
	return list
}

// Bytes returns the frame from the Ethernet header to the last byte of payload.
func (f *Frame) Bytes() []byte { return f.Buf[f.Start:f.End] }

// Len returns the frame's length in bytes, Ethernet header included.
func (f *Frame) Len() int { return f.End - f.Start }

// Reset empties the frame and restores the full headroom.
func (f *Frame) Reset() {
	f.Start, f.End, f.Offload, f.Time, f.Lost = Headroom, Headroom, Offload{}, 0, Sent
}

// Features says what a device accepts on output beyond plain frames.
type Features uint8

// What a device can accept.
const (
	FeatureCsum      Features = 1 << iota // frames with NeedsCsum
	FeatureTSO4                           // GSOTCPv4
	FeatureTSO6                           // GSOTCPv6
	FeatureUSO                            // GSOUDPL4, both families
	FeatureTunnelGSO                      // GSOTunnelIPv4 and IPv6 with an inner type that is a feature too
)

// Queue is one receive and transmit queue of a device. Read belongs to one
// goroutine. Several may call Write at once, each with its own frames: a device
// can have fewer queues than the forwarder has workers.
type Queue interface {
	// Read fills up to len(frames) frames, setting Start, End and Offload, and
	// returns how many; 0 means nothing is waiting. It never blocks. An error
	// means the queue is dead (ErrGone) and must be closed.
	Read(frames []*Frame) (int, error)
	// Write sends frames in order and sets Lost on each. It never blocks and
	// may overwrite the headroom in front of each frame.
	Write(frames []*Frame)
	// FD returns a descriptor that polls readable when Read would return
	// frames, or -1 where the caller must poll by calling Read.
	FD() int
}

// Device is an attached port. Its methods are for the control path.
type Device interface {
	Name() string
	Features() Features
	// Queues returns the device's queues; the slice does not change.
	Queues() []Queue
	// Close detaches the device. No queue may be in use.
	Close() error
}

// ErrGone is returned by Queue.Read when the device behind the queue vanished.
const ErrGone = goneError("port: device is gone")

type goneError string

func (e goneError) Error() string { return string(e) }
