package flowtable

import (
	"errors"
	"os"
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The region is one piece of memory without pointers: header, buckets, session
// records. Everything in it is found by index, so it means the same wherever it
// is mapped. This is the only file that uses unsafe: the three views below are
// cut once, with lengths that MemorySize has summed up.

const (
	regionMagic   = 0x31776f6c66525476 // "vTRflow1"
	regionVersion = 1
	headerSize    = 256
	bucketSize    = 64
	bucketSlots   = 7

	// sessionBudget is what a session may cost in bytes, all included.
	sessionBudget = 192
	// minBuckets keeps small tables from sharing a handful of buckets.
	minBuckets = probes
	// MaxSessions is the largest table: a Ref has 31 bits of index.
	MaxSessions = 1<<31 - 2
)

// header is the first 256 bytes of the region. Its two hot lines are written by
// those who set sessions up and by those who remove them.
type header struct {
	magic    uint64
	version  uint64
	size     uint64
	sessions uint64
	buckets  uint64
	seed     [2]uint64
	_        uint64

	free     atomic.Uint64 // tag<<32 | index: stack of records to use again
	fresh    atomic.Uint64 // records used at least once; the rest are untouched
	inserted atomic.Uint64
	full     atomic.Uint64 // times that Alloc or Insert found no room
	_        [4]uint64

	limbo   atomic.Uint64 // index: stack of removed records, grace period ahead
	removed atomic.Uint64
	_       [14]uint64
}

// bucket is one cache line: seven slots and what their lock holder keeps.
type bucket struct {
	slots [bucketSlots]atomic.Uint64 // signature<<32 | Ref; 0 = empty
	meta  atomic.Uint64              // see insert.go
}

// MemorySize returns the bytes that a table of so many sessions takes: 192 each,
// everything included, from 1,024 sessions up.
func MemorySize(sessions int) int {
	return headerSize + bucketCount(sessions)*bucketSize + (sessions+1)*SessionSize
}

// bucketCount returns how many buckets fit in the budget beside header and
// records. Two keys in about 3.5 slots per session: a full table fills 57 % of
// its slots.
func bucketCount(sessions int) int {
	room := sessions*(sessionBudget-SessionSize) - headerSize - SessionSize
	return max(room/bucketSize, sessions/4, minBuckets)
}

// region is mapped or borrowed memory and the views into it.
type region struct {
	memory   []byte
	mapped   bool
	file     *os.File // the memfd behind it, or nil
	header   *header
	buckets  []bucket
	sessions []Session
}

// newRegion takes memory for the sessions of c. What it returns is zero but for
// the header.
func newRegion(c Config) (region, error) {
	if c.Sessions < 1 || c.Sessions > MaxSessions {
		return region{}, errors.New("flowtable: Sessions is " + strconv.Itoa(c.Sessions) +
			": want 1 to " + strconv.Itoa(MaxSessions))
	}
	r := region{memory: c.Memory}
	size := MemorySize(c.Sessions)
	if r.memory == nil {
		var err error
		if r.memory, r.file, err = mapMemory(size, c.Memfd); err != nil {
			return region{}, err
		}
		r.mapped = true
	} else if len(r.memory) < size || uintptr(unsafe.Pointer(unsafe.SliceData(r.memory)))%bucketSize != 0 {
		return region{}, errors.New("flowtable: Memory must be 64-byte aligned and hold " +
			strconv.Itoa(size) + " bytes (MemorySize); it holds " + strconv.Itoa(len(r.memory)))
	} else {
		clear(r.memory)
	}
	r.cut(c.Sessions, bucketCount(c.Sessions))
	h := r.header
	h.magic, h.version, h.size = regionMagic, regionVersion, uint64(size)
	h.sessions, h.buckets, h.seed = uint64(c.Sessions), uint64(len(r.buckets)), c.Seed
	return r, nil
}

// cut lays the views over r.memory, which the caller has found long enough.
func (r *region) cut(sessions, buckets int) {
	base := unsafe.Pointer(unsafe.SliceData(r.memory))
	r.header = (*header)(base)
	r.buckets = unsafe.Slice((*bucket)(unsafe.Add(base, headerSize)), buckets)
	r.sessions = unsafe.Slice((*Session)(unsafe.Add(base, headerSize+buckets*bucketSize)), sessions+1)
}

// mapMemory maps size bytes, in huge pages where the kernel gives them, and
// touches them now: a page fault under traffic would stall a whole batch.
func mapMemory(size int, memfd bool) ([]byte, *os.File, error) {
	fd, flags := -1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
	var file *os.File
	if memfd {
		var err error
		if fd, err = unix.MemfdCreate("vrouter-sessions", unix.MFD_CLOEXEC); err != nil {
			return nil, nil, errors.New("flowtable: memfd_create: " + err.Error())
		}
		file, flags = os.NewFile(uintptr(fd), "vrouter-sessions"), unix.MAP_SHARED
		if err := file.Truncate(int64(size)); err != nil {
			_ = file.Close()
			return nil, nil, errors.New("flowtable: memfd of " + strconv.Itoa(size) + " bytes: " + err.Error())
		}
	}
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err == nil {
		// Both are advice: an older kernel, or one without huge pages to give,
		// leaves a slower table that works.
		_ = unix.Madvise(memory, unix.MADV_HUGEPAGE)
		err = unix.Madvise(memory, unix.MADV_POPULATE_WRITE)
		if err == nil || errors.Is(err, unix.EINVAL) {
			return memory, file, nil
		}
		_ = unix.Munmap(memory)
	}
	if file != nil {
		_ = file.Close()
	}
	return nil, nil, errors.New("flowtable: no memory for sessions (" + strconv.Itoa(size) +
		" bytes): " + err.Error() + "; configure fewer sessions")
}

// release gives mapped memory back.
func (r *region) release() error {
	var err error
	if r.mapped {
		err = unix.Munmap(r.memory)
	}
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	*r = region{}
	return err
}
