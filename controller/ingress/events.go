package ingress

import (
	"context"
	"log/slog"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// events tells the authors of Ingresses what is wrong with them: once for each
// problem while it lasts, in an Event and in the log. It belongs to the loop.
type events struct {
	recorder record.EventRecorder
	log      *slog.Logger
	known    map[routing.Problem]bool
}

// component is whom Events are from.
const component = "vrkube-ingress"

func newEvents(ctx context.Context, client kubernetes.Interface, log *slog.Logger) *events {
	b := record.NewBroadcaster(record.WithContext(ctx))
	b.StartRecordingToSink(&corev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return &events{recorder: b.NewRecorder(scheme.Scheme, core.EventSource{Component: component}), log: log, known: make(map[routing.Problem]bool)}
}

// report tells what is new among the problems. find returns an Ingress that is known.
func (e *events) report(problems []routing.Problem, find func(types.NamespacedName) *networking.Ingress) {
	now := make(map[routing.Problem]bool, len(problems))
	for _, p := range problems {
		if !now[p] && !e.known[p] {
			e.tell(p, find(p.Ingress))
		}
		now[p] = true
	}
	e.known = now
}

func (e *events) tell(p routing.Problem, ing *networking.Ingress) {
	e.log.Warn("an Ingress has a problem", "ingress", p.Ingress.String(), "reason", p.Reason, "problem", p.Message)
	if ing == nil {
		return // what the operator's flags name
	}
	ref := &core.ObjectReference{
		APIVersion: networking.SchemeGroupVersion.String(), Kind: "Ingress",
		Namespace: ing.Namespace, Name: ing.Name, UID: ing.UID, ResourceVersion: ing.ResourceVersion,
	}
	e.recorder.Event(ref, core.EventTypeWarning, p.Reason, p.Message)
}
