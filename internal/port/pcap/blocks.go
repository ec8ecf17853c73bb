package pcap

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// pcapng block types and limits (draft-ietf-opsawg-pcapng sections 3 and 4).
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 2
	blockSimple    = 3
	blockEnhanced  = 6

	byteOrderMagic = 0x1a2b3c4d
	minBlock       = 12
	minInterface   = 20
	maxBlock       = 16 << 20 // as Wireshark
)

func isSectionHeader(magic []byte) bool { return binary.LittleEndian.Uint32(magic) == blockSection }

// blockReader hands on a pcapng file block by block and only whole, consistent
// ones: pcapgo would take a cut file for a complete one, and allocate whatever a
// length field says.
type blockReader struct {
	in    *bufio.Reader
	order binary.ByteOrder
	block []byte // the current block
	rest  []byte // what of it is not handed on yet
}

func newBlockReader(in *bufio.Reader) *blockReader {
	return &blockReader{in: in, order: binary.LittleEndian}
}

// Read implements io.Reader.
func (b *blockReader) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if err := b.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// fill reads the next block. Its error is io.EOF only between blocks.
func (b *blockReader) fill() error {
	head, err := b.in.Peek(minBlock)
	if err == io.EOF && len(head) > 0 {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if isSectionHeader(head) {
		if b.order = binary.ByteOrder(binary.LittleEndian); b.order.Uint32(head[8:]) != byteOrderMagic {
			b.order = binary.BigEndian
		}
	}
	length := b.order.Uint32(head[4:])
	if length < minBlock || length%4 != 0 || length > maxBlock {
		return fmt.Errorf("%w: length %d", errCorrupt, length)
	}
	if cap(b.block) < int(length) {
		b.block = make([]byte, length)
	}
	b.block = b.block[:length]
	if _, err := io.ReadFull(b.in, b.block); err != nil {
		return io.ErrUnexpectedEOF
	}
	if end := b.order.Uint32(b.block[length-4:]); end != length {
		return fmt.Errorf("%w: length %d at its start, %d at its end", errCorrupt, length, end)
	}
	b.rest = b.block
	return b.check()
}

// check makes sure that the packet fits in the block that carries it, and takes
// away an interface's snap length, which pcapgo allocates in advance.
func (b *blockReader) check() error {
	fixed, at := 0, 0 // bytes before the packet, and where its captured length is
	switch b.order.Uint32(b.block) {
	case blockInterface:
		if len(b.block) < minInterface {
			return fmt.Errorf("%w: %d bytes are too short for an interface", errCorrupt, len(b.block))
		}
		b.order.PutUint32(b.block[12:], 0) // no limit
		return nil
	case blockPacket, blockEnhanced:
		fixed, at = 28, 20
	case blockSimple: // it has only the length on the wire
		fixed, at = 12, 8
	default:
		return nil
	}
	room := len(b.block) - 4 - fixed
	if room < 0 {
		return fmt.Errorf("%w: %d bytes are too short for a packet", errCorrupt, len(b.block))
	}
	if captured := b.order.Uint32(b.block[at:]); uint64(captured) > uint64(room) {
		return fmt.Errorf("%w: a packet of %d bytes in room for %d", errCorrupt, captured, room)
	}
	return nil
}
