package state

import (
	"errors"
	"runtime"
	"strings"
	"sync"

	"buf.build/go/protovalidate"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Draft is a resource with what can be said about it without the state that it
// comes into: whether its message is right, what it says, names and takes. That is
// most of the work of a transaction, and is done before anything is locked.
type Draft struct {
	res    *pb.Resource
	key    Key
	object *object // its res is of no meaning; nil where there are faults
	faults []fault // what the message's own rules find
}

// fault is a field, by its path from spec on, and what is wrong with it.
type fault struct{ field, description string }

// Known is what a state has of some resources. It stays true of them whatever
// becomes of the state.
type Known []*object

// Known returns what the state has under the names of resources, for Drafts.
func (s *State) Known(resources []*pb.Resource) Known {
	known := make(Known, len(resources))
	for i, res := range resources {
		k := KeyOf(res)
		known[i] = s.objects[k.Kind][k.Name]
	}
	return known
}

// minShare is how many drafts are worth a goroutine.
const minShare = 64

// Drafts works on resources in several goroutines. What a state has of them
// already, as known says, is not checked again. It may run beside anything else;
// the resources must not be changed afterwards.
func Drafts(resources []*pb.Resource, known Known) []Draft {
	drafts := make([]Draft, len(resources))
	share := max(minShare, (len(resources)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for from := 0; from < len(resources); from += share {
		work := func() {
			for i := from; i < min(from+share, len(resources)); i++ {
				drafts[i] = draft(resources[i], known[i])
			}
		}
		if from+share >= len(resources) {
			work() // the last, or only, share
		} else {
			wg.Go(work)
		}
	}
	wg.Wait()
	return drafts
}

func draft(res *pb.Resource, known *object) Draft {
	d := Draft{res: res, key: KeyOf(res)}
	if known != nil && known.sum == sum(d.key, res) {
		d.object = known
		return d
	}
	if !sure(res) {
		d.faults = messageFaults(res)
	}
	if len(d.faults) == 0 {
		d.object = &object{sum: sum(d.key, res), refs: references(res), claims: claims(res)}
	}
	return d
}

// own makes the draft of a resource that the state makes itself, from what has been
// checked.
func own(res *pb.Resource) Draft {
	k := KeyOf(res)
	return Draft{res: res, key: k, object: &object{sum: sum(k, res), refs: references(res), claims: claims(res)}}
}

// messageFaults runs the rules that the message itself carries.
func messageFaults(res *pb.Resource) (faults []fault) {
	err := protovalidate.Validate(res)
	var invalid *protovalidate.ValidationError
	switch {
	case err == nil:
	case errors.As(err, &invalid):
		for _, v := range invalid.Violations {
			field := JSONPath(protovalidate.FieldPathString(v.Proto.GetField()))
			if rest, ok := strings.CutPrefix(field, specField(res)); ok && (rest == "" || rest[0] == '.') {
				field = "spec" + rest
			}
			faults = append(faults, fault{field, Describe(v)})
		}
	default:
		faults = append(faults, fault{"", err.Error()})
	}
	return faults
}
