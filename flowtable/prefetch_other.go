//go:build !amd64

package flowtable

// PrefetchBuckets asks for the lines that the lookups of some packets will read
// first.
func (t *Table) PrefetchBuckets(hashes []uint64) { t.touchBuckets(hashes) }

// PrefetchSessions asks for the sessions of some packets, whose buckets were asked
// for a while ago, and notes in hints, as long as hashes, where each lookup will
// probably end: for LookupHint. Nothing is promised: a hint may be of another
// connection, or 0 although the session exists. tcp says that TrackTCP follows.
func (t *Table) PrefetchSessions(hashes []uint64, hints []Ref, _ bool) {
	t.touchSessions(hashes, hints[:len(hashes)])
}

func prefetchBucket(*bucket) {}

func prefetchSession(*Session) {}
