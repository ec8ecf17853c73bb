package routing

import (
	"cmp"
	"slices"

	networking "k8s.io/api/networking/v1"
)

// Annotations that Kubernetes has for classes, and ours.
const (
	legacyClass  = "kubernetes.io/ingress.class"
	redirectHTTP = "vrouter.io/ssl-redirect" // "true": plain HTTP is redirected to HTTPS
)

// classes knows which Ingresses are ours.
type classes struct {
	ours      map[string]bool // by class name
	byDefault bool            // whether an Ingress that names no class is ours
}

func newClasses(all []*networking.IngressClass, controller string) classes {
	c := classes{ours: make(map[string]bool)}
	var first *networking.IngressClass
	for _, class := range all {
		c.ours[class.Name] = class.Spec.Controller == controller
		if class.Annotations[networking.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		// The newest default wins, as in the API server's admission.
		if first == nil || cmp.Or(first.CreationTimestamp.Compare(class.CreationTimestamp.Time), cmp.Compare(class.Name, first.Name)) < 0 {
			first = class
		}
	}
	c.byDefault = first != nil && first.Spec.Controller == controller
	return c
}

// owns says whether an Ingress is ours: by its class, else by the annotation of old,
// else as one of the default class.
func (c classes) owns(ing *networking.Ingress) bool {
	if name := ing.Spec.IngressClassName; name != nil {
		return c.ours[*name]
	}
	if name, ok := ing.Annotations[legacyClass]; ok {
		return c.ours[name]
	}
	return c.byDefault
}

// of returns our Ingresses, the oldest first.
func (c classes) of(all []*networking.Ingress) []*networking.Ingress {
	var ours []*networking.Ingress
	for _, ing := range all {
		if c.owns(ing) {
			ours = append(ours, ing)
		}
	}
	slices.SortFunc(ours, func(a, b *networking.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return ours
}
