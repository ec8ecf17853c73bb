//go:build !amd64

package flowtable

// Prefetch asks the memory for what the lookups of a whole batch will read, so
// that their cache misses overlap, and notes in hints, as long as hashes, where
// each lookup will probably end: for LookupHint. Nothing is promised: a hint may
// be of another connection, or 0 although the session exists. tcp says that
// TrackTCP follows.
func (t *Table) Prefetch(hashes []uint64, hints []Ref, _ bool) {
	t.prefetchGo(hashes, hints[:len(hashes)])
}

func prefetchBucket(*bucket) {}

func prefetchSession(*Session) {}
