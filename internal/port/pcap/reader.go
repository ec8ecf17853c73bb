package pcap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/vrouter-go/vrouter/internal/port"
)

// maxSnaplen is the longest packet of a capture file, as in libpcap
// (MAXIMUM_SNAPLEN). The snap length in a file's header is not to be trusted.
const maxSnaplen = 262144

// Packet is one packet of a capture file.
type Packet struct {
	Time   int64  // ns since the epoch; 0 where the file has none
	Data   []byte // from the Ethernet header; valid until the next call on the Reader
	Length int    // bytes on the wire; more than len(Data) when the capture cut it
}

// Truncated reports whether the capture holds only the packet's beginning.
func (p Packet) Truncated() bool { return p.Length > len(p.Data) }

// source is pcapgo's Reader or NgReader.
type source interface {
	ZeroCopyReadPacketData() ([]byte, gopacket.CaptureInfo, error)
}

// Reader reads an Ethernet capture: classic pcap of either byte order and
// resolution (gzip too), or pcapng. It belongs to one goroutine.
type Reader struct {
	name   string
	src    source
	ng     *pcapgo.NgReader // nil for classic pcap
	file   io.Closer        // nil where the caller owns the input
	count  int              // packets read from src
	next   Packet
	err    error
	peeked bool
}

// Open opens a capture file. Close the Reader after use.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	r, err := NewReader(path, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	r.file = f
	return r, nil
}

// NewReader reads a capture from in; name is for errors.
func NewReader(name string, in io.Reader) (*Reader, error) {
	r := &Reader{name: name}
	var link layers.LinkType
	err := guard(func() (err error) {
		link, err = r.start(bufio.NewReader(in))
		return err
	})
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("capture %s: not a readable pcap or pcapng file: %w", name, err)
	}
	if r.ng == nil && link != layers.LinkTypeEthernet {
		return nil, fmt.Errorf("capture %s: %w", name, linkTypeError(link))
	}
	return r, nil
}

// start finds out the file's format. A pcapng file tells its link type later,
// with its first packet.
func (r *Reader) start(in *bufio.Reader) (layers.LinkType, error) {
	magic, err := in.Peek(4)
	if err != nil {
		return 0, err
	}
	if isSectionHeader(magic) {
		r.ng, err = pcapgo.NewNgReader(newBlockReader(in), pcapgo.NgReaderOptions{ErrorOnMismatchingLinkType: true})
		r.src = r.ng
		return 0, err
	}
	classic, err := pcapgo.NewReader(in)
	if err != nil {
		return 0, err
	}
	classic.SetSnaplen(maxSnaplen)
	r.src = classic
	return classic.LinkType(), nil
}

func linkTypeError(link layers.LinkType) error {
	return fmt.Errorf("link type %d (%v), want 1 (Ethernet): capture on an Ethernet interface, not with `-i any`", link, link)
}

// Peek returns the next packet and leaves it in place. At the end of the file the
// error is io.EOF; a file cut short or corrupt says at which packet.
func (r *Reader) Peek() (Packet, error) {
	if !r.peeked && r.err == nil {
		r.next, r.err = r.read()
		r.peeked = r.err == nil
	}
	return r.next, r.err
}

// Next returns the next packet. Its Data is valid until the call after this one.
func (r *Reader) Next() (Packet, error) {
	p, err := r.Peek()
	r.peeked = false
	return p, err
}

func (r *Reader) read() (Packet, error) {
	var data []byte
	var ci gopacket.CaptureInfo
	err := guard(func() (err error) {
		data, ci, err = r.src.ZeroCopyReadPacketData()
		return err
	})
	if err == io.EOF && ci.CaptureLength == 0 {
		return Packet{}, io.EOF
	}
	r.count++
	switch {
	case err == io.EOF: // the header was there, the bytes were not
		err = io.ErrUnexpectedEOF
	case err != nil:
	case r.ng != nil && r.ng.LinkType() != layers.LinkTypeEthernet:
		err = linkTypeError(r.ng.LinkType())
	case len(data) > port.MaxFrame:
		err = fmt.Errorf("%d bytes, more than a frame can have (%d)", len(data), port.MaxFrame)
	}
	if err != nil {
		return Packet{}, fmt.Errorf("capture %s: packet %d: %w", r.name, r.count, err)
	}
	p := Packet{Data: data, Length: max(ci.Length, len(data))}
	if !ci.Timestamp.IsZero() { // pcapng's simple packets have none
		p.Time = ci.Timestamp.UnixNano()
	}
	return p, nil
}

// Close closes a file opened by Open.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

var errCorrupt = errors.New("corrupt block")

// guard turns a panic of pcapgo into an error: it trusts the lengths of pcapng
// options.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w (%v)", errCorrupt, v)
		}
	}()
	return f()
}
