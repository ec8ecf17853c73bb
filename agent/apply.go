package agent

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/agent/state"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Apply changes desired state in one transaction: all of it or nothing. Errors
// are *state.Error for bad fields; state is then as it was.
func (a *Agent) Apply(_ context.Context, req *pb.ApplyRequest) (*pb.ApplyResponse, error) {
	drafts := a.draft(req.GetUpserts())
	a.turn.Lock()
	defer a.turn.Unlock()
	if answer := a.answers.get(req); answer != nil {
		return answer, nil
	}
	r := request{
		Request:  state.Request{Owner: state.OwnerOperator, Upserts: req.GetUpserts(), Drafts: drafts},
		dryRun:   req.GetDryRun(),
		expected: req.GetExpectedGeneration(),
	}
	for _, k := range req.GetDeletes() {
		r.Deletes = append(r.Deletes, state.Key{Kind: k.GetKind(), Name: k.GetName()})
	}
	if req.GetPrune() != nil {
		r.sweep = func(s *state.State) ([]state.Key, error) { return prune(s, req) }
	}
	out, err := a.transactLocked(r)
	if err != nil {
		return nil, err
	}
	answer := &pb.ApplyResponse{
		Generation: &pb.Generation{Number: out.generation, Level: pb.Generation_PROGRAMMED},
		Results:    out.results,
		DryRun:     req.GetDryRun(),
	}
	a.answers.put(req, answer)
	return answer, nil
}

// prune lists the operator's resources that the request does not hold.
func prune(s *state.State, req *pb.ApplyRequest) ([]state.Key, error) {
	keep := make(map[state.Key]struct{}, len(req.GetUpserts()))
	for _, r := range req.GetUpserts() {
		keep[state.KeyOf(r)] = struct{}{}
	}
	for _, k := range req.GetDeletes() {
		keep[state.Key{Kind: k.GetKind(), Name: k.GetName()}] = struct{}{}
	}
	kinds := req.GetPrune().GetKinds()
	stale := owned(s, state.OwnerOperator, keep)
	if len(kinds) > 0 {
		stale = slices.DeleteFunc(stale, func(k state.Key) bool { return !slices.Contains(kinds, k.Kind) })
	}
	if len(req.GetUpserts()) == 0 && len(stale) > 0 && !req.GetPrune().GetAllowEmpty() {
		return nil, errEmpty
	}
	return stale, nil
}

// owned lists the resources of an owner but for those to keep.
func owned(s *state.State, owner string, keep map[state.Key]struct{}) []state.Key {
	var keys []state.Key
	for _, kind := range state.Kinds {
		for name, r := range s.Of(kind) {
			k := state.Key{Kind: kind, Name: name}
			if _, ok := keep[k]; !ok && r.GetOwner() == owner {
				keys = append(keys, k)
			}
		}
	}
	slices.SortFunc(keys, state.Key.Compare)
	return keys
}

// maxAnswers is how many answers are remembered for repeated requests.
const maxAnswers = 128

// answers remembers the answers of the last transactions by request id.
type answers struct {
	byID  map[string]remembered
	order []string
}

type remembered struct {
	request []byte
	answer  *pb.ApplyResponse
}

func newAnswers() answers { return answers{byID: map[string]remembered{}} }

// get returns the answer to the same request, nil if there was none.
func (m *answers) get(req *pb.ApplyRequest) *pb.ApplyResponse {
	r, ok := m.byID[req.GetRequestId()]
	if !ok || req.GetRequestId() == "" || !slices.Equal(r.request, fingerprint(req)) {
		return nil
	}
	return r.answer
}

func (m *answers) put(req *pb.ApplyRequest, answer *pb.ApplyResponse) {
	id := req.GetRequestId()
	if id == "" || req.GetDryRun() {
		return
	}
	if _, ok := m.byID[id]; !ok {
		m.order = append(m.order, id)
	}
	m.byID[id] = remembered{fingerprint(req), answer}
	if len(m.order) > maxAnswers {
		delete(m.byID, m.order[0])
		m.order = m.order[1:]
	}
}

// fingerprint tells requests apart that carry one id by mistake.
func fingerprint(req *pb.ApplyRequest) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil
	}
	return sum256(b)
}
