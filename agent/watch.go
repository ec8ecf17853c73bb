package agent

import (
	"crypto/sha256"
	"slices"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func sum256(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// watchBacklog is how many transactions a watcher may be behind.
const watchBacklog = 1024

// watchers are told of each transaction.
type watchers struct {
	set    map[*watcher]struct{}
	closed bool // the agent ends; a new watcher's channel is closed from the start
}

func newWatchers() watchers { return watchers{set: map[*watcher]struct{}{}} }

// watcher is one Watch. The channel is closed when the watcher is too far behind
// or the agent ends.
type watcher struct {
	events chan transaction
}

type transaction struct {
	generation uint64
	changes    []state.Change
}

func (w *watchers) add() *watcher {
	x := &watcher{events: make(chan transaction, watchBacklog)}
	if w.closed {
		close(x.events)
		return x
	}
	w.set[x] = struct{}{}
	return x
}

func (w *watchers) remove(x *watcher) { delete(w.set, x) }

// tell hands a transaction to every watcher and never waits for one.
func (w *watchers) tell(generation uint64, changes []state.Change) {
	if len(w.set) == 0 {
		return
	}
	changes = slices.Clone(changes)
	slices.SortFunc(changes, func(a, b state.Change) int { return a.Key.Compare(b.Key) })
	for x := range w.set {
		select {
		case x.events <- transaction{generation, changes}:
		default:
			close(x.events)
			delete(w.set, x)
		}
	}
}

func (w *watchers) close() {
	w.closed = true
	for x := range w.set {
		close(x.events)
	}
	clear(w.set)
}

// selection says which resources a List or Watch is about.
type selection struct {
	kinds, names []string
}

func (s selection) has(k state.Key) bool {
	return (len(s.kinds) == 0 || slices.Contains(s.kinds, k.Kind)) && (len(s.names) == 0 || slices.Contains(s.names, k.Name))
}

// resources returns the selected resources and their generation.
func (s selection) resources(st *state.State) []*pb.Resource {
	var list []*pb.Resource
	for _, kind := range state.Kinds {
		if len(s.kinds) > 0 && !slices.Contains(s.kinds, kind) {
			continue
		}
		if len(s.names) > 0 {
			for _, name := range slices.Sorted(slices.Values(s.names)) {
				if r := st.Get(state.Key{Kind: kind, Name: name}); r != nil {
					list = append(list, r)
				}
			}
			continue
		}
		for _, name := range st.Names(kind) {
			list = append(list, st.Get(state.Key{Kind: kind, Name: name}))
		}
	}
	return list
}

// list returns the selected resources of one generation.
func (a *Agent) list(s selection) (uint64, []*pb.Resource) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.state.Generation(), s.resources(a.state)
}

// watch returns the selected resources and a watcher of what comes after.
func (a *Agent) watch(s selection) (uint64, []*pb.Resource, *watcher) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.Generation(), s.resources(a.state), a.watchers.add()
}

func (a *Agent) unwatch(w *watcher) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchers.remove(w)
}
