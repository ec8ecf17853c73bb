package flowtable

import (
	"testing"

	"pgregory.net/rapid"
)

// model is what the table must do, with maps: which session a key belongs to,
// and which records may not be handed out.
type model struct {
	table   *Table
	reader  *Reader
	index   map[Key]Ref
	keys    map[Ref][2]Key
	pending []Ref
	held    map[uint32]bool // removed since reader was last quiet
	limbo   int             // removed and not yet reclaimed
}

const (
	modelSessions = 64  // 25 buckets for 128 keys: many overflow
	modelPorts    = 150 // possible flows, so that the same come again and again
)

// modelKeys draws a connection: plain, translated to a few ports so that reply
// keys clash, or to itself.
func modelKeys(t *rapid.T) (forward, reply Key) {
	forward = flow(rapid.IntRange(0, modelPorts-1).Draw(t, "flow"))
	if rapid.Bool().Draw(t, "opposite") {
		forward = forward.Reverse()
	}
	reply = forward.Reverse()
	switch rapid.IntRange(0, 4).Draw(t, "nat") {
	case 0:
		reply.DstPort = uint16(rapid.IntRange(0, 20).Draw(t, "port"))
	case 1:
		forward.Dst, forward.DstPort = forward.Src, forward.SrcPort
		reply = forward
	}
	return forward, reply
}

func (m *model) alloc(t *rapid.T) {
	r := m.table.Alloc()
	used := len(m.keys) + len(m.pending) + m.limbo
	if r == 0 {
		if used < modelSessions {
			t.Fatalf("no session left, %d of %d in use", used, modelSessions)
		}
		return
	}
	if r.Direction() != Forward || r.Index() == 0 || m.held[r.Index()] {
		t.Fatalf("Alloc = %d, held %v", r, m.held[r.Index()])
	}
	if _, live := m.keys[r]; live {
		t.Fatalf("Alloc = %d, which is live", r)
	}
	for _, p := range m.pending {
		if p == r {
			t.Fatalf("Alloc = %d twice", r)
		}
	}
	m.pending = append(m.pending, r)
}

func (m *model) insert(t *rapid.T) {
	if len(m.pending) == 0 {
		t.Skip("nothing allocated")
	}
	r := m.pending[len(m.pending)-1]
	forward, reply := modelKeys(t)
	m.table.Session(r).SetKeys(forward, reply)
	got, other := m.table.Insert(r)
	want, owner := Inserted, r
	if o, ok := m.index[forward]; ok {
		want, owner = Exists, o
	} else if o, ok := m.index[reply]; ok {
		want, owner = Conflict, o
	}
	if got != want || other != owner {
		t.Fatalf("Insert(%v, %v) = %d, %d: want %d, %d", forward, reply, got, other, want, owner)
	}
	if got != Inserted {
		return
	}
	m.pending = m.pending[:len(m.pending)-1]
	m.index[reply] = r | 1
	m.index[forward] = r
	m.keys[r] = [2]Key{forward, reply}
}

func (m *model) free(t *rapid.T) {
	if len(m.pending) == 0 {
		t.Skip("nothing allocated")
	}
	m.table.Free(m.pending[0])
	m.pending = m.pending[1:]
}

func (m *model) remove(t *rapid.T) {
	key := flow(rapid.IntRange(0, modelPorts-1).Draw(t, "flow"))
	r := m.index[key] &^ 1
	if r == 0 {
		t.Skip("no such session")
	}
	if !m.table.Remove(r|Ref(rapid.IntRange(0, 1).Draw(t, "direction"))) || m.table.Remove(r) {
		t.Fatalf("Remove(%d) is not true just once", r)
	}
	for _, k := range m.keys[r] {
		delete(m.index, k)
	}
	delete(m.keys, r)
	m.held[r.Index()] = true
	m.limbo++
}

func (m *model) reclaim(t *rapid.T) {
	budget := rapid.IntRange(0, modelSessions).Draw(t, "budget")
	if rapid.Bool().Draw(t, "quiet") {
		m.reader.Quiesce()
		clear(m.held)
	}
	n := m.table.Reclaim(budget)
	if n > budget || n > m.limbo {
		t.Fatalf("Reclaim(%d) = %d of %d", budget, n, m.limbo)
	}
	m.limbo -= n
}

// settle makes every removed record usable.
func (m *model) settle(t *rapid.T) {
	m.reader.Offline()
	clear(m.held)
	if n := m.table.Reclaim(modelSessions); n != m.limbo {
		t.Fatalf("nobody reads, Reclaim = %d of %d", n, m.limbo)
	}
	m.limbo = 0
	m.reader.Online()
}

// check compares everything that can be asked.
func (m *model) check(t *rapid.T) {
	for i := range modelPorts {
		for _, k := range [2]Key{flow(i), flow(i).Reverse()} {
			if got := m.table.find(k); got != m.index[k] {
				t.Fatalf("Lookup(%v) = %d, want %d", k, got, m.index[k])
			}
		}
	}
	seen := map[Ref]bool{}
	for cursor := uint32(0); ; {
		cursor = m.table.Range(cursor, 5, func(r Ref, s *Session) bool {
			if keys, ok := m.keys[r]; seen[r] || !ok || keys != [2]Key{s.Key(Forward), s.Key(Reply)} {
				t.Fatalf("Range gave %d", r)
			}
			seen[r] = true
			return true
		})
		if cursor == 0 {
			break
		}
	}
	if len(seen) != len(m.keys) || m.table.Live() != len(m.keys) {
		t.Fatalf("Range gave %d, Live %d, want %d", len(seen), m.table.Live(), len(m.keys))
	}
	m.checkIndex(t)
}

// checkIndex counts what lies in the buckets.
func (m *model) checkIndex(t *rapid.T) {
	slots, further := indexUse(m.table)
	if slots != len(m.index) {
		t.Fatalf("%d slots in use for %d keys", slots, len(m.index))
	}
	if slots == 0 && further != 0 {
		t.Fatalf("empty, but %d keys are said to lie in further buckets", further)
	}
}

// indexUse returns the slots in use and the keys said to lie in further buckets.
func indexUse(table *Table) (slots, further int) {
	for i := range table.buckets {
		b := &table.buckets[i]
		further += int(b.meta.Load() >> metaCount)
		for j := range b.slots {
			if b.slots[j].Load() != 0 {
				slots++
			}
		}
	}
	return slots, further
}

// The table against maps, over random histories.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, err := New(Config{Sessions: modelSessions, Seed: [2]uint64{rapid.Uint64().Draw(t, "seed"), 1}, Memory: heap(modelSessions)})
		if err != nil {
			t.Fatal(err)
		}
		m := &model{table: table, reader: table.NewReader(), index: map[Key]Ref{}, keys: map[Ref][2]Key{}, held: map[uint32]bool{}}
		if rapid.Bool().Draw(t, "start full") {
			for range modelSessions {
				m.alloc(t)
				m.insert(t)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"alloc":   m.alloc,
			"insert":  m.insert,
			"insert2": m.insert,
			"free":    m.free,
			"remove":  m.remove,
			"reclaim": m.reclaim,
			"settle":  m.settle,
			"":        m.check,
		})
	})
}

// RFC 5382 REQ-2: two ends that open the same connection at once share one session
func TestInsertFromBothEnds(t *testing.T) {
	table := newTable(t, 10)
	r := table.Alloc()
	table.Session(r).SetKeys(flow(1), flow(1).Reverse())
	table.Insert(r)
	other := table.Alloc()
	table.Session(other).SetKeys(flow(1).Reverse(), flow(1))
	if got, ref := table.Insert(other); got != Exists || ref != r.Other() {
		t.Errorf("Insert = %d, %d: want Exists, %d", got, ref, r.Other())
	}
}
