package agent

import (
	"errors"
	"fmt"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/persist"
	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// errGeneration says that desired state is not where the caller believed it to be.
type errGeneration struct{ want, have uint64 }

func (e errGeneration) Error() string {
	return fmt.Sprintf("desired state is at generation %d, not at %d: somebody else changed it; look at it again and repeat", e.have, e.want)
}

// errEmpty says that a transaction would remove everything and nobody said that
// this is meant.
var errEmpty = errors.New("it holds no resources and would remove all there are; set allow_empty if that is meant")

// request is a transaction as it comes in.
type request struct {
	state.Request
	dryRun   bool
	expected uint64 // generation that the caller saw; 0 = any
	// sweep, when given, lists what goes besides; called with the state locked.
	sweep func(*state.State) ([]state.Key, error)
	// election is the controller's, 0 for the operator.
	election uint64
	// accepted is called once the transaction is valid and durable.
	accepted func(*pb.Generation)
}

// outcome is what a transaction did.
type outcome struct {
	generation uint64
	results    []*pb.ResourceResult
	swept      int
}

// draft works on the resources of a transaction as far as that is possible without
// holding up any other.
func (a *Agent) draft(list []*pb.Resource) []state.Draft {
	a.mu.RLock()
	known := a.state.Known(list)
	a.mu.RUnlock()
	return state.Drafts(list, known)
}

// transact carries out a transaction: all of it or nothing.
func (a *Agent) transact(req request) (*outcome, error) {
	a.turn.Lock()
	defer a.turn.Unlock()
	return a.transactLocked(req)
}

func (a *Agent) transactLocked(req request) (*outcome, error) {
	out, compiled, err := a.change(req)
	if err != nil {
		return nil, err
	}
	if req.accepted != nil && !req.dryRun {
		req.accepted(&pb.Generation{Number: out.generation, Level: pb.Generation_ACCEPTED})
	}
	if compiled != nil {
		a.program(compiled)
	}
	return out, nil
}

// change checks, compiles and writes down a transaction. The result is nil where
// nothing changed that the forwarder has to know.
func (a *Agent) change(req request) (*outcome, *compile.Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if have := a.state.Generation(); req.expected != 0 && req.expected != have {
		return nil, nil, errGeneration{req.expected, have}
	}
	out := &outcome{generation: a.state.Generation()}
	if req.sweep != nil {
		sweep, err := req.sweep(a.state)
		if err != nil {
			return nil, nil, err
		}
		req.Sweep, out.swept = sweep, len(sweep)
	}
	req.Borrowed = a.around.view.Addresses
	tx, err := a.state.Begin(req.Request)
	if err != nil {
		return nil, nil, err
	}
	out.results = tx.Results()
	if req.dryRun {
		tx.Rollback()
		return out, nil, nil
	}
	if len(tx.Changes()) == 0 {
		tx.Commit()
		return out, nil, nil
	}
	if !tx.Programs() {
		a.commit(req, tx, out)
		return out, nil, nil
	}
	affected := tx.Affected()
	compiled, err := a.compiler.Compile(a.state, affected)
	if err != nil {
		tx.Rollback()
		if _, again := a.compiler.Compile(a.state, affected); again != nil {
			a.log.Error("compiler did not come back to the state before", "error", again)
		}
		return nil, nil, fmt.Errorf("the state cannot be programmed: %w", err)
	}
	a.commit(req, tx, out)
	a.programs, compiled.Snapshot.Generation = out.generation, out.generation
	return out, compiled, nil
}

// commit makes a transaction stay, writes it down and tells who watches.
func (a *Agent) commit(req request, tx *state.Transaction, out *outcome) {
	tx.Commit()
	out.generation = a.state.Generation()
	a.persist(req, tx)
	a.watchers.tell(out.generation, tx.Changes())
}

// persist writes a transaction down. Where the disk does not take it forwarding
// goes on, and status says that durability is lost.
func (a *Agent) persist(req request, tx *state.Transaction) {
	if a.store == nil {
		return
	}
	record := persist.Transaction{Generation: a.state.Generation()}
	if req.Owner != state.OwnerOperator && req.Owner != state.OwnerCNI {
		record.Controller, record.Election = req.Owner, req.election
	}
	for _, ch := range tx.Changes() {
		if ch.New != nil {
			record.Upserts = append(record.Upserts, ch.New)
		} else {
			record.Deletes = append(record.Deletes, ch.Key.Proto())
		}
	}
	lost := a.store.Status().Err != nil
	full, err := a.store.Append(record)
	if err != nil || full || lost { // after a lost write only the whole state is right
		err = a.store.Compact(a.saved())
	}
	if err != nil {
		a.log.Error("state is not durable", "generation", record.Generation, "error", err)
	}
}
