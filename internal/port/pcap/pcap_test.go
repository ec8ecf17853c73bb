package pcap_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/pcap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ port.Device = (*pcap.Device)(nil)

type packet struct {
	ns          int64
	size, onNet int
}

// sample is what the test captures hold: the third packet was cut at 60 bytes.
var sample = []packet{
	{1_700_000_000_123_456_000, 60, 60},
	{1_700_000_000_123_457_000, 1514, 1514},
	{1_700_000_001_000_000_000, 60, 900},
}

func payload(i int) []byte {
	b := bytes.Repeat([]byte{byte(i + 1)}, sample[i].size)
	copy(b[12:], []byte{0x88, 0xb5}) // the EtherType for experiments
	return b
}

type byteOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

// classic builds a pcap file by hand (draft-ietf-opsawg-pcap section 4). Its snap
// length is too small, as dpkt writes it.
func classic(order byteOrder, nanos bool, link uint32) []byte {
	magic, unit := uint32(0xa1b2c3d4), int64(1000)
	if nanos {
		magic, unit = 0xa1b23c4d, 1
	}
	b := words(order, nil, magic)
	b = order.AppendUint16(order.AppendUint16(b, 2), 4)
	b = words(order, b, 0, 0, 1000, link)
	for i, p := range sample {
		b = words(order, b, uint32(p.ns/1e9), uint32(p.ns%1e9/unit), uint32(p.size), uint32(p.onNet))
		b = append(b, payload(i)...)
	}
	return b
}

// ng builds a pcapng file by hand (draft-ietf-opsawg-pcapng section 4) with
// nanosecond timestamps.
func ng(order byteOrder, link uint16) []byte {
	b := block(order, 0x0a0d0d0a, words(order, nil, 0x1a2b3c4d, 1, 0xffffffff, 0xffffffff))
	if order == byteOrder(binary.BigEndian) { // version 1.0 is two halves
		copy(b[12:], []byte{0, 1, 0, 0})
	}
	idb := order.AppendUint16(order.AppendUint16(nil, link), 0)
	idb = words(order, idb, 0)
	idb = append(order.AppendUint16(order.AppendUint16(idb, 9), 1), 9, 0, 0, 0) // if_tsresol: 10^-9
	b = append(b, block(order, 1, words(order, idb, 0))...)
	for i, p := range sample {
		body := words(order, nil, 0, uint32(p.ns>>32), uint32(p.ns), uint32(p.size), uint32(p.onNet))
		body = append(body, payload(i)...)
		b = append(b, block(order, 6, body)...)
	}
	return b
}

func block(order byteOrder, kind uint32, body []byte) []byte {
	body = append(body, make([]byte, (4-len(body)%4)%4)...)
	length := uint32(len(body) + 12)
	return words(order, append(words(order, nil, kind, length), body...), length)
}

func words(order byteOrder, b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = order.AppendUint32(b, v)
	}
	return b
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

func readAll(t testing.TB, data []byte) ([]pcap.Packet, error) {
	t.Helper()
	r, err := pcap.NewReader("test", bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var all []pcap.Packet
	for {
		p, err := r.Next()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		p.Data = bytes.Clone(p.Data)
		all = append(all, p)
	}
}

func TestReaderKnowsEveryFormat(t *testing.T) {
	var want []pcap.Packet
	for i, p := range sample {
		want = append(want, pcap.Packet{Time: p.ns, Data: payload(i), Length: p.onNet})
	}
	le, be := byteOrder(binary.LittleEndian), byteOrder(binary.BigEndian)
	for name, file := range map[string][]byte{
		"pcap, microseconds, little endian": classic(le, false, 1),
		"pcap, microseconds, big endian":    classic(be, false, 1),
		"pcap, nanoseconds, little endian":  classic(le, true, 1),
		"pcap, nanoseconds, big endian":     classic(be, true, 1),
		"pcap, compressed":                  gz(classic(le, true, 1)),
		"pcapng, little endian":             ng(le, 1),
		"pcapng, big endian":                ng(be, 1),
		"pcapng, two sections":              append(ng(le, 1), ng(be, 1)...),
	} {
		want := want
		if strings.Contains(name, "two") {
			want = append(want[:len(want):len(want)], want...)
		}
		got, err := readAll(t, file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if len(got) > 2 && (got[0].Truncated() || !got[2].Truncated()) {
			t.Errorf("%s: the third packet alone is truncated", name)
		}
	}
}

func TestReaderRefusesOtherLinkTypes(t *testing.T) {
	const rawIP = 101
	for _, file := range [][]byte{classic(binary.LittleEndian, false, rawIP), ng(binary.LittleEndian, rawIP)} {
		got, err := readAll(t, file)
		if len(got) != 0 || err == nil || !strings.Contains(err.Error(), "101") || !strings.Contains(err.Error(), "Ethernet") {
			t.Errorf("%d packets, %v; want an error that names both link types", len(got), err)
		}
	}
}

// A file cut anywhere gives the whole packets before the cut, then an error that
// says where; never a panic, never silence.
func TestReaderReportsACutFile(t *testing.T) {
	for name, whole := range map[string][]byte{
		"pcap": classic(binary.LittleEndian, true, 1), "pcapng": ng(binary.LittleEndian, 1),
	} {
		clean := 0
		for cut := range whole {
			got, err := readAll(t, whole[:cut])
			if err == nil {
				clean++
				continue
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "test") {
				t.Fatalf("%s cut at %d: %d packets, %v", name, cut, len(got), err)
			}
		}
		// Between packets a cut cannot be seen; pcapng has two more such places,
		// behind the section header and the interface.
		if most := len(sample) + 2; clean > most {
			t.Errorf("%s: %d cuts went unseen; want at most %d", name, clean, most)
		}
	}
}

func TestReaderRefusesWhatCannotBe(t *testing.T) {
	long := words(binary.LittleEndian, classic(binary.LittleEndian, true, 1), 0, 0, 0x7fffffff, 0x7fffffff)
	jumbo := words(binary.LittleEndian, classic(binary.LittleEndian, true, 1), 0, 0, port.MaxFrame+1, port.MaxFrame+1)
	jumbo = append(jumbo, make([]byte, port.MaxFrame+1)...)
	lying := ng(binary.LittleEndian, 1)
	binary.LittleEndian.PutUint32(lying[len(lying)-4:], 999)
	huge := words(binary.LittleEndian, ng(binary.LittleEndian, 1), 6, 0xfffffff0, 0)
	big := ng(binary.LittleEndian, 1)
	big = append(big, block(binary.LittleEndian, 6, words(binary.LittleEndian, nil, 0, 0, 0, 0xffff0000, 0xffff0000))...)
	// if_tsresol 2^-64, by which pcapgo divides zero
	clock := block(binary.LittleEndian, 1, words(binary.LittleEndian, nil, 1, 0, 1<<16|9, 0xc0, 0))
	for name, file := range map[string][]byte{
		"empty": nil, "text": []byte("# not a capture\n"), "captured length": long, "jumbo": jumbo,
		"block end": lying, "block length": huge, "packet longer than its block": big,
		"impossible clock": append(ng(binary.LittleEndian, 1), clock...),
	} {
		if _, err := readAll(t, file); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(classic(binary.LittleEndian, true, 1))
	f.Add(ng(binary.LittleEndian, 1))
	f.Add(ng(binary.BigEndian, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 || bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			return
		}
		packets, _ := readAll(t, data)
		for _, p := range packets {
			if len(p.Data) > port.MaxFrame || p.Length < len(p.Data) {
				t.Fatalf("packet of %d bytes, %d on the wire", len(p.Data), p.Length)
			}
		}
	})
}

func TestWriterIsDeterministicAndReadByOthers(t *testing.T) {
	write := func() []byte {
		var out bytes.Buffer
		w, err := pcap.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range sample {
			if err := w.Write(p.ns+int64(i), payload(i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Write(0, payload(0)); err != nil { // the epoch is a time like any other
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	file := write()
	if !bytes.Equal(file, write()) {
		t.Error("the same calls gave other bytes")
	}
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("SKIP-TOOL: tshark is not installed")
	}
	path := filepath.Join(t.TempDir(), "out.pcap")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("tshark", "-r", path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len").Output()
	want := "1700000000.123456000\t60\n1700000000.123457001\t1514\n1700000001.000000002\t60\n0.000000000\t60\n"
	if err != nil || string(got) != want {
		t.Errorf("tshark reads %q, %v; want %q", got, err, want)
	}
}

// editcap writes pcapng as real tools do.
func TestReaderReadsWhatEditcapWrites(t *testing.T) {
	if _, err := exec.LookPath("editcap"); err != nil {
		t.Skip("SKIP-TOOL: editcap is not installed")
	}
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.pcap"), filepath.Join(dir, "out.pcapng")
	if err := os.WriteFile(in, classic(binary.LittleEndian, true, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command("editcap", "-F", "pcapng", in, out).CombinedOutput(); err != nil {
		t.Fatalf("editcap: %s", msg)
	}
	file, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(t, file)
	if err != nil || len(got) != len(sample) {
		t.Fatalf("%d packets, %v", len(got), err)
	}
	for i, p := range got {
		if p.Time != sample[i].ns || !bytes.Equal(p.Data, payload(i)) || p.Length != sample[i].onNet {
			t.Errorf("packet %d: time %d, %d bytes of %d", i, p.Time, len(p.Data), p.Length)
		}
	}
}

func device(t *testing.T, gated bool, out io.Writer) *pcap.Device {
	t.Helper()
	r, err := pcap.NewReader("in", bytes.NewReader(classic(binary.LittleEndian, true, 1)))
	if err != nil {
		t.Fatal(err)
	}
	w, err := pcap.NewWriter(out)
	if err != nil {
		t.Fatal(err)
	}
	return pcap.New(pcap.Config{Name: "vmi", In: r, Out: w, Gated: gated})
}

func frames(n int) []*port.Frame {
	all := make([]*port.Frame, n)
	for i := range all {
		all[i] = port.NewFrame()
	}
	return all
}

func TestDeviceIsGatedByAdmit(t *testing.T) {
	d := device(t, true, io.Discard)
	q, batch := d.Queues()[0], frames(8)
	for i, p := range sample {
		if n, err := q.Read(batch); n != 0 || err != nil {
			t.Fatalf("before Admit: %d, %v", n, err)
		}
		if ns, ok := d.Peek(); !ok || ns != p.ns {
			t.Errorf("Peek: %d, %v; want %d", ns, ok, p.ns)
		}
		d.Admit(1)
		if n, err := q.Read(batch); n != 1 || err != nil || batch[0].Time != p.ns || !bytes.Equal(batch[0].Bytes(), payload(i)) {
			t.Errorf("after Admit: %d, %v, time %d", n, err, batch[0].Time)
		}
	}
	d.Admit(5)
	if n, err := q.Read(batch); n != 0 || err != nil {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if _, ok := d.Peek(); ok {
		t.Error("Peek finds a frame at the end")
	}
	if d.Truncated() != 1 || d.Err() != nil || d.Close() != nil {
		t.Errorf("truncated %d, error %v", d.Truncated(), d.Err())
	}
}

func TestDeviceWritesPlainFramesWithTheirTimes(t *testing.T) {
	var out bytes.Buffer
	d := device(t, false, &out)
	batch := frames(3)
	if n, err := d.Queues()[0].Read(batch); n != 3 || err != nil {
		t.Fatalf("Read: %d, %v", n, err)
	}
	batch[1].Time = 0 // made by the forwarder, not received
	batch[2].Offload.Flags = port.NeedsCsum
	d.SetTime(1_700_000_002_000_000_000)
	d.Queues()[0].Write(batch)
	if batch[0].Lost != port.Sent || batch[1].Lost != port.Sent || batch[2].Lost != port.LostRejected {
		t.Errorf("lost %v %v %v", batch[0].Lost, batch[1].Lost, batch[2].Lost)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(t, out.Bytes())
	if err != nil || len(got) != 2 || got[0].Time != sample[0].ns || got[1].Time != 1_700_000_002_000_000_000 {
		t.Errorf("written: %v, %v", got, err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestDeviceReportsFailures(t *testing.T) {
	var cut bytes.Buffer
	cut.Write(classic(binary.LittleEndian, true, 1)[:200])
	r, err := pcap.NewReader("cut", &cut)
	if err != nil {
		t.Fatal(err)
	}
	d := pcap.New(pcap.Config{In: r})
	batch := frames(4)
	if n, err := d.Queues()[0].Read(batch); n != 1 || err != nil {
		t.Errorf("Read: %d, %v; want the packet before the cut", n, err)
	}
	if n, err := d.Queues()[0].Read(batch); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read: %d, %v", n, err)
	}
	if err := d.Close(); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(fmt.Sprint(err), "packet 2") {
		t.Errorf("Close: %v", err)
	}
	full := device(t, false, fullDisk{})
	full.Queues()[0].Write(frames(1))
	if err := full.Close(); err == nil {
		t.Error("Close hides that nothing could be written")
	}
}
