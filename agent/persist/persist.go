// Package persist keeps desired state on disk, so that a restarted daemon
// forwards as before without a controller. A directory holds
//
//	state     the state at one generation, replaced as a whole
//	state.old the one before, for the day when state is damaged
//	journal   each transaction since, appended before it takes effect
//
// Every file carries checksums. A journal that ends in the middle of a record,
// as a crash leaves it, is used up to there.
package persist

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

const (
	stateFile   = "state"
	oldFile     = "state.old"
	journalFile = "journal"
	// oldJournalFile leads from the copy before to the state.
	oldJournalFile = "journal.old"
	magic          = "vrouter-state 1 "
	// compactAt is the least size of the journal, in bytes, at which the state is
	// written anew.
	compactAt = 1 << 20
)

// Saved is a state as it is kept.
type Saved struct {
	Generation uint64
	Resources  []*pb.Resource
	// Elections holds the highest election id seen of each controller, so that an
	// older one stays fenced after a restart.
	Elections map[string]uint64
}

// header is the second line of a state file.
type header struct {
	Generation uint64            `json:"generation"`
	Written    time.Time         `json:"written"`
	Elections  map[string]uint64 `json:"elections,omitempty"`
}

// Status says how durable the state is.
type Status struct {
	Path       string
	Generation uint64 // the newest on disk
	SavedAt    time.Time
	Restored   uint64 // what the daemon started from
	Warning    string // what was wrong with the files at the start
	Err        error  // of the last write; nil = durable
}

// Store is an open state directory. It belongs to one goroutine at a time.
type Store struct {
	dir       string
	journal   *os.File
	size      int64 // bytes of the journal's records
	room      int64 // bytes of the journal, zeros behind the records included
	stateSize int64 // bytes of the state file
	damaged   bool  // the state file is; the copy before it is the one to keep
	status    Status
}

// Open opens a state directory, makes it if need be, and returns what it holds.
// Damaged files are no error: the best copy is used, and Status says so.
func Open(dir string) (*Store, *Saved, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, nil, fmt.Errorf("state directory %s: %w", dir, err)
	}
	s := &Store{dir: dir, status: Status{Path: filepath.Join(dir, stateFile)}}
	saved, err := s.load()
	if err != nil {
		return nil, nil, err
	}
	s.status.Generation, s.status.Restored = saved.Generation, saved.Generation
	return s, saved, nil
}

// Status returns how durable the state is.
func (s *Store) Status() Status { return s.status }

// load reads the state and the journal behind it.
func (s *Store) load() (*Saved, error) {
	saved, size, err := readState(filepath.Join(s.dir, stateFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.warn("%v; the copy before it was used", err)
		s.damaged = true
	}
	isOld := err != nil
	if isOld {
		old, oldSize, oldErr := readState(filepath.Join(s.dir, oldFile))
		switch {
		case oldErr == nil:
			if s.status.Warning == "" {
				s.warn("%v; the copy before it was used", err)
			}
			saved, size = old, oldSize
		case errors.Is(err, fs.ErrNotExist) && errors.Is(oldErr, fs.ErrNotExist):
			saved = &Saved{}
		default:
			return nil, fmt.Errorf("no good copy of the state: %w; %w: restore one from a backup, or move %s away to start empty and let the controller fill it",
				err, oldErr, s.dir)
		}
	}
	s.stateSize = size
	if info, err := os.Stat(filepath.Join(s.dir, stateFile)); err == nil {
		s.status.SavedAt = info.ModTime()
	}
	return saved, s.replay(saved, isOld)
}

func (s *Store) warn(format string, args ...any) {
	if s.status.Warning != "" {
		s.status.Warning += "; "
	}
	s.status.Warning += fmt.Sprintf(format, args...)
}

// readState reads one state file.
func readState(path string) (*Saved, int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	bad := func(what string) error { return fmt.Errorf("%s is damaged: %s", path, what) }
	line, rest, ok := bytes.Cut(b, []byte("\n"))
	digest, ok2 := bytes.CutPrefix(line, []byte(magic))
	if !ok || !ok2 {
		return nil, 0, bad("it does not begin with " + magic)
	}
	if sum := sha256.Sum256(rest); hex.EncodeToString(sum[:]) != string(digest) {
		return nil, 0, bad("its checksum is wrong")
	}
	head, body, _ := bytes.Cut(rest, []byte("\n"))
	var h header
	if err := json.Unmarshal(head, &h); err != nil {
		return nil, 0, bad(err.Error())
	}
	list := &pb.ListResponse{}
	if err := proto.Unmarshal(body, list); err != nil {
		return nil, 0, bad(err.Error())
	}
	return &Saved{Generation: h.Generation, Resources: list.GetResources(), Elections: h.Elections}, int64(len(b)), nil
}

// Compact writes the whole state and empties the journal.
func (s *Store) Compact(saved Saved) error {
	err := s.compact(saved)
	s.note(saved.Generation, err)
	return err
}

func (s *Store) compact(saved Saved) error {
	head, err := json.Marshal(header{saved.Generation, time.Now().UTC(), saved.Elections})
	if err != nil {
		return err
	}
	body, err := proto.Marshal(&pb.ListResponse{Generation: saved.Generation, Resources: saved.Resources})
	if err != nil {
		return err
	}
	rest := append(append(head, '\n'), body...)
	sum := sha256.Sum256(rest)
	content := append([]byte(magic+hex.EncodeToString(sum[:])+"\n"), rest...)
	path := filepath.Join(s.dir, stateFile)
	if err := writeSynced(path+".new", content); err != nil {
		return err
	}
	if !s.damaged {
		if err := s.keepOld(path); err != nil {
			return err
		}
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	keep := !s.damaged // otherwise the copy before stays, and its journal with it
	s.stateSize, s.damaged = int64(len(content)), false
	return s.resetJournal(keep)
}

// keepOld makes the present state the copy before. It is a link, so that state
// itself is there at every moment.
func (s *Store) keepOld(path string) error {
	old := filepath.Join(s.dir, oldFile)
	if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(path, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// note remembers the outcome of a write.
func (s *Store) note(generation uint64, err error) {
	if s.status.Err = err; err == nil {
		s.status.Generation, s.status.SavedAt = generation, time.Now()
	}
}

func writeSynced(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Close closes the files.
func (s *Store) Close() error {
	if s.journal == nil {
		return nil
	}
	return s.journal.Close()
}
