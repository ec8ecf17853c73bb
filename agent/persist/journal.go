package persist

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Transaction is one record of the journal: resources as they stand in the state,
// with owner and generation.
type Transaction struct {
	Generation uint64
	Upserts    []*pb.Resource
	Deletes    []*pb.ResourceKey
	// Controller and Election are set where a controller made it.
	Controller string
	Election   uint64
}

// A record is: length (4 bytes, little-endian), CRC-32C of the payload, payload.
// The payload is two messages of the API, each behind its length: the controller's
// hello and the transaction, whose expected_generation holds the generation.
// Behind the last record are zeros, room for the next ones.
const recordHeader = 8

// maxRecord bounds what a damaged length can make us read.
const maxRecord = 256 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append adds a transaction to the journal and returns when it is on disk. Where
// it says full, the caller should Compact.
func (s *Store) Append(t Transaction) (full bool, err error) {
	defer func() { s.note(t.Generation, err) }()
	payload, err := encode(t)
	if err != nil {
		return false, err
	}
	if s.journal == nil {
		return true, errors.New("the journal is not open; the state is written as a whole instead")
	}
	record := make([]byte, recordHeader, recordHeader+len(payload))
	binary.LittleEndian.PutUint32(record, uint32(len(payload)))
	binary.LittleEndian.PutUint32(record[4:], crc32.Checksum(payload, castagnoli))
	record = append(record, payload...)
	if err := s.makeRoom(int64(len(record))); err != nil {
		return false, err
	}
	if _, err := s.journal.WriteAt(record, s.size); err != nil {
		s.room = s.size
		return false, errors.Join(err, s.journal.Truncate(s.size))
	}
	if err := unix.Fdatasync(int(s.journal.Fd())); err != nil {
		return false, err
	}
	s.size += int64(len(record))
	return s.size > max(compactAt, s.stateSize), nil
}

// roomStep is by how much the journal grows at a time, in bytes.
const roomStep = 256 << 10

// makeRoom puts zeros on disk where the next n bytes go. To overwrite them later
// needs no change of the file system's own records, for which a write that makes
// the file longer would have to wait, and which others may keep it waiting for.
func (s *Store) makeRoom(n int64) error {
	if s.size+n <= s.room {
		return nil
	}
	for _, spare := range [...]int64{roomStep, 0} { // a disk that is nearly full may have room for the record alone
		room := s.size + n + spare
		_, err := s.journal.WriteAt(make([]byte, room-s.room), s.room)
		if err == nil {
			s.room = room
			return s.journal.Sync()
		}
		if err := errors.Join(err, s.journal.Truncate(s.room)); spare == 0 {
			return err
		}
	}
	return nil
}

func encode(t Transaction) ([]byte, error) {
	hello := &pb.SyncHello{ControllerId: t.Controller, ElectionId: t.Election}
	body := &pb.ApplyRequest{Upserts: t.Upserts, Deletes: t.Deletes, ExpectedGeneration: t.Generation}
	var payload []byte
	for _, m := range [...]proto.Message{hello, body} {
		b, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		payload = binary.AppendUvarint(payload, uint64(len(b)))
		payload = append(payload, b...)
	}
	return payload, nil
}

func decode(payload []byte) (Transaction, error) {
	hello, body := &pb.SyncHello{}, &pb.ApplyRequest{}
	for _, m := range [...]proto.Message{hello, body} {
		n, used := binary.Uvarint(payload)
		if used <= 0 || n > uint64(len(payload)-used) {
			return Transaction{}, io.ErrUnexpectedEOF
		}
		if err := proto.Unmarshal(payload[used:used+int(n)], m); err != nil {
			return Transaction{}, err
		}
		payload = payload[used+int(n):]
	}
	return Transaction{
		Generation: body.GetExpectedGeneration(), Upserts: body.GetUpserts(), Deletes: body.GetDeletes(),
		Controller: hello.GetControllerId(), Election: hello.GetElectionId(),
	}, nil
}

// replay opens the journal and carries out the transactions that are newer than
// the state. Where that is the copy before, the journal before comes first.
func (s *Store) replay(saved *Saved, isOld bool) error {
	byKey := index(saved.Resources)
	if isOld {
		if _, _, err := s.carryOut(oldJournalFile, saved, byKey); err != nil {
			return err
		}
	}
	good, room, err := s.carryOut(journalFile, saved, byKey)
	if err != nil {
		return err
	}
	s.journal, err = os.OpenFile(filepath.Join(s.dir, journalFile), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	s.size, s.room = int64(good), int64(room)
	if err := s.journal.Truncate(s.room); err != nil {
		return err
	}
	saved.Resources = saved.Resources[:0:0]
	for _, r := range byKey {
		saved.Resources = append(saved.Resources, r)
	}
	return nil
}

// carryOut carries out the transactions of one journal and returns how much of it
// is good, and where the room behind that ends. What follows a damaged record
// cannot be trusted and is cut off.
func (s *Store) carryOut(name string, saved *Saved, byKey map[key]*pb.Resource) (good, room int, err error) {
	path := filepath.Join(s.dir, name)
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	for good < len(b) {
		if len(bytes.TrimLeft(b[good:], "\x00")) == 0 {
			return good, len(b), nil
		}
		n, t, err := readRecord(b[good:])
		if err == nil && t.Generation > saved.Generation+1 {
			err = fmt.Errorf("generation %d follows %d", t.Generation, saved.Generation)
		}
		if err != nil {
			s.warn("%s is damaged at byte %d of %d (%v); what came after it is lost", path, good, len(b), err)
			break
		}
		good += n
		if t.Generation > saved.Generation {
			apply(saved, byKey, t)
		}
	}
	return good, good, nil
}

func readRecord(b []byte) (n int, t Transaction, err error) {
	if len(b) < recordHeader {
		return 0, t, io.ErrUnexpectedEOF
	}
	length := binary.LittleEndian.Uint32(b)
	if length > maxRecord || int(length) > len(b)-recordHeader {
		return 0, t, io.ErrUnexpectedEOF
	}
	n = recordHeader + int(length)
	payload := b[recordHeader:n]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return 0, t, errors.New("wrong checksum")
	}
	t, err = decode(payload)
	return n, t, err
}

// key names a resource in the way of a ResourceKey.
type key struct{ kind, name string }

func keyOf(r *pb.Resource) key {
	m := r.ProtoReflect()
	if fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("spec")); fd != nil {
		return key{string(fd.Message().Name()), r.GetName()}
	}
	return key{"", r.GetName()}
}

func index(list []*pb.Resource) map[key]*pb.Resource {
	byKey := make(map[key]*pb.Resource, len(list))
	for _, r := range list {
		byKey[keyOf(r)] = r
	}
	return byKey
}

func apply(saved *Saved, byKey map[key]*pb.Resource, t Transaction) {
	for _, k := range t.Deletes {
		delete(byKey, key{k.GetKind(), k.GetName()})
	}
	for _, r := range t.Upserts {
		byKey[keyOf(r)] = r
	}
	saved.Generation = t.Generation
	if t.Controller != "" {
		if saved.Elections == nil {
			saved.Elections = map[string]uint64{}
		}
		saved.Elections[t.Controller] = max(saved.Elections[t.Controller], t.Election)
	}
}

// resetJournal begins a new journal after the state was written as a whole. The
// former one is kept beside the copy before: together they are this state too.
func (s *Store) resetJournal(keep bool) error {
	path := filepath.Join(s.dir, journalFile)
	if s.journal != nil {
		if err := s.journal.Close(); err != nil {
			return err
		}
		s.journal = nil
	}
	if keep {
		if err := os.Rename(path, filepath.Join(s.dir, oldJournalFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	s.journal, s.size, s.room = f, 0, 0
	return errors.Join(f.Sync(), syncDir(s.dir))
}
