package flowtable

// prefetchBuckets and prefetchSessions are what touchBuckets and touchSessions are in
// Go: what matters is the order in which the memory is asked for, and Go has
// no instruction for that. count is at least 1.
//
//go:noescape
func prefetchBuckets(buckets *bucket, n uint64, hashes *uint64, count int)

//go:noescape
func prefetchSessions(buckets *bucket, n uint64, sessions *Session, hashes *uint64, hints *Ref, count int, whole uint64)

// prefetchBucket asks for the line of a bucket that is about to be locked. Unlike
// a load, it is not waited for by the next locked instruction.
//
//go:noescape
func prefetchBucket(b *bucket)

// prefetchSession asks for the lines of a record that is about to be written.
//
//go:noescape
func prefetchSession(s *Session)

// PrefetchBuckets asks for the lines that the lookups of some packets will read
// first.
func (t *Table) PrefetchBuckets(hashes []uint64) {
	if len(hashes) > 0 {
		prefetchBuckets(&t.buckets[0], uint64(len(t.buckets)), &hashes[0], len(hashes))
	}
}

// PrefetchSessions asks for the sessions of some packets, whose buckets were asked
// for a while ago, and notes in hints, as long as hashes, where each lookup will
// probably end: for LookupHint. Nothing is promised: a hint may be of another
// connection, or 0 although the session exists. tcp says that TrackTCP follows,
// which reads both directions' words; without it one of a session's three cache
// lines is not needed in half of the cases.
func (t *Table) PrefetchSessions(hashes []uint64, hints []Ref, tcp bool) {
	whole := uint64(0)
	if tcp {
		whole = 4
	}
	if hints = hints[:len(hashes)]; len(hashes) > 0 {
		prefetchSessions(&t.buckets[0], uint64(len(t.buckets)), &t.sessions[0], &hashes[0], &hints[0], len(hashes), whole)
	}
}
