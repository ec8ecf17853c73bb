package pcap

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// Writer writes a classic Ethernet pcap file with nanosecond timestamps. The same
// calls give the same bytes. It belongs to one goroutine.
type Writer struct {
	pcap *pcapgo.Writer
	buf  *bufio.Writer
	file io.Closer // nil where the caller owns the output
}

// Create makes or empties a capture file.
func Create(path string) (*Writer, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	w, err := NewWriter(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	w.file = f
	return w, nil
}

// NewWriter writes a capture to out.
func NewWriter(out io.Writer) (*Writer, error) {
	buf := bufio.NewWriterSize(out, 1<<16)
	w := &Writer{pcap: pcapgo.NewWriterNanos(buf), buf: buf}
	if err := w.pcap.WriteFileHeader(maxSnaplen, layers.LinkTypeEthernet); err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	return w, nil
}

// Write appends a frame, from its Ethernet header, at ns since the epoch.
func (w *Writer) Write(ns int64, frame []byte) error {
	return w.pcap.WritePacket(gopacket.CaptureInfo{
		Timestamp: time.Unix(0, ns), CaptureLength: len(frame), Length: len(frame),
	}, frame)
}

// Close writes what is buffered and closes a file made by Create.
func (w *Writer) Close() error {
	err := w.buf.Flush()
	if w.file != nil {
		if cerr := w.file.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}
