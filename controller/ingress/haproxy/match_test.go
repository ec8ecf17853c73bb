package haproxy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// naive answers which Service of the Ingresses a request is for, straight from the
// words of the Kubernetes documentation, rule by rule: "" for none.
func naive(all []*networking.Ingress, host, path string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	best, bestScore := "", -1
	for _, ing := range all { // the oldest first
		for _, rule := range ing.Spec.Rules {
			h := naiveHost(rule.Host, host)
			if h < 0 || rule.HTTP == nil {
				continue
			}
			for _, p := range rule.HTTP.Paths {
				length := naivePath(p, path)
				if length < 0 {
					continue
				}
				if score := h*1_000_000 + length; score > bestScore {
					best, bestScore = p.Backend.Service.Name, score
				}
			}
		}
	}
	if bestScore >= 0 {
		return best
	}
	// Defaults: of the Ingresses that name the host, then of those with nothing else,
	// then of any.
	for wanted := 2; wanted >= 1; wanted-- {
		for _, ing := range all {
			for _, rule := range ing.Spec.Rules {
				if ing.Spec.DefaultBackend != nil && naiveHost(rule.Host, host) == wanted {
					return ing.Spec.DefaultBackend.Service.Name
				}
			}
		}
	}
	for _, alone := range []bool{true, false} {
		for _, ing := range all {
			if ing.Spec.DefaultBackend != nil && (len(ing.Spec.Rules) == 0) == alone {
				return ing.Spec.DefaultBackend.Service.Name
			}
		}
	}
	return ""
}

// naiveHost: 2 exact, 1 wildcard, 0 any, -1 another host.
func naiveHost(rule, host string) int {
	rule = strings.ToLower(rule)
	switch {
	case rule == "":
		return 0
	case rule == host:
		return 2
	case strings.HasPrefix(rule, "*."):
		labels, suffix := strings.Split(host, "."), strings.Split(rule, ".")[1:]
		if len(labels) == len(suffix)+1 && labels[0] != "" && slices.Equal(labels[1:], suffix) {
			return 1
		}
	}
	return -1
}

// naivePath: how good a match is, -1 for none.
func naivePath(p networking.HTTPIngressPath, path string) int {
	if p.PathType != nil && *p.PathType == networking.PathTypeExact {
		if p.Path == path {
			return 500_000
		}
		return -1
	}
	rule := strings.Split(strings.TrimRight(p.Path, "/"), "/")
	request := strings.Split(path, "/")
	if len(request) < len(rule) {
		return -1
	}
	for i := range rule {
		if rule[i] != request[i] {
			return -1
		}
	}
	return len(strings.Join(rule, "/"))
}

// world makes random Ingresses over few hosts and paths, so that they meet.
type world struct {
	r        *rand.Rand
	services int
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func (w *world) host() string {
	return pick(w.r, "", "", "a.test", "b.test", "A.Test", "x.a.test", "y.a.test", "*.a.test", "*.test", "*.b.test", "test", "a.test.test")
}

func (w *world) path() string {
	var b strings.Builder
	for range w.r.IntN(4) {
		b.WriteString("/" + pick(w.r, "foo", "foobar", "fo", "bar", "Foo", "%2F", "a.b", "x=y&z", "*", "exact:a.test", ".."))
	}
	if b.Len() == 0 || w.r.IntN(4) == 0 {
		b.WriteString("/")
	}
	return b.String()
}

func (w *world) backend() networking.IngressBackend {
	return networking.IngressBackend{Service: &networking.IngressServiceBackend{Name: "s" + strconv.Itoa(w.r.IntN(w.services)), Port: networking.ServiceBackendPort{Number: 80}}}
}

func (w *world) ingresses() []*networking.Ingress {
	var all []*networking.Ingress
	for i := range 1 + w.r.IntN(6) {
		ing := &networking.Ingress{ObjectMeta: meta.ObjectMeta{
			Namespace: "ns", Name: fmt.Sprintf("i%d", w.r.IntN(1000000)), CreationTimestamp: meta.NewTime(time.Unix(int64(1000+i), 0)),
		}}
		ing.Spec.IngressClassName = ptr("vrouter")
		for range w.r.IntN(4) {
			rule := networking.IngressRule{Host: w.host()}
			if w.r.IntN(8) > 0 {
				rule.HTTP = &networking.HTTPIngressRuleValue{}
				for range 1 + w.r.IntN(4) {
					rule.HTTP.Paths = append(rule.HTTP.Paths, networking.HTTPIngressPath{
						Path: w.path(), PathType: ptr(pick(w.r, networking.PathTypeExact, networking.PathTypePrefix, networking.PathTypePrefix, networking.PathTypeImplementationSpecific)), Backend: w.backend(),
					})
				}
			}
			ing.Spec.Rules = append(ing.Spec.Rules, rule)
		}
		if w.r.IntN(3) == 0 {
			ing.Spec.DefaultBackend = ptr(w.backend())
		}
		all = append(all, ing)
	}
	return all
}

func ptr[T any](v T) *T { return &v }

// objects are the cluster with a Service of one pod each.
func objects(all []*networking.Ingress, pods map[string]*pod) routing.Objects {
	return routing.Objects{
		Ingresses: all,
		Classes:   []*networking.IngressClass{{ObjectMeta: meta.ObjectMeta{Name: "vrouter"}, Spec: networking.IngressClassSpec{Controller: "c"}}},
		Service: func(n types.NamespacedName) *core.Service {
			if pods[n.Name] == nil {
				return nil
			}
			return &core.Service{Spec: core.ServiceSpec{Ports: []core.ServicePort{{Port: 80}}}}
		},
		Slices: func(n types.NamespacedName) []*discovery.EndpointSlice {
			a := pods[n.Name].Address
			return []*discovery.EndpointSlice{{AddressType: discovery.AddressTypeIPv4, Ports: []discovery.EndpointPort{{Port: ptr(int32(a.Port()))}}, Endpoints: []discovery.Endpoint{{Addresses: []string{a.Addr().String()}}}}}
		},
		Secret: func(types.NamespacedName) *core.Secret { return nil },
	}
}

// TestMatchesAsTheDocumentationSays compares the pod that answers through a real
// HAProxy with the naive reading of random Ingresses, before and after changes.
func TestMatchesAsTheDocumentationSays(t *testing.T) {
	r := newRig(t, nil)
	w := &world{r: rand.New(rand.NewPCG(seed(t), 1)), services: 8}
	pods := make(map[string]*pod)
	for i := range w.services {
		name := fmt.Sprintf("s%d", i)
		pods[name] = newPod(t, name, false, nil)
	}
	compiler := routing.NewCompiler(routing.Options{Controller: "c"})
	found, none := 0, 0
	for range 40 {
		all := w.ingresses()
		r.apply(compiler.Compile(objects(all, pods)))
		for range 60 {
			host := pick(w.r, "a.test", "A.TEST", "b.test", "x.a.test", "y.a.test", "z.x.a.test", "q.test", "test", "other.example", "a.test.", "a.test:8080", "x.b.test", "a.test.test", "[::1]:80", ".a.test", "*.a.test", "a.test/foo")
			path := w.path()
			name := host
			if i := strings.LastIndexByte(host, ':'); i >= 0 {
				name = host[:i]
			}
			if strings.ContainsAny(name, "[*/") || strings.HasPrefix(name, ".") {
				name = "no-name" // no host of a rule
			}
			want := naive(all, name, path)
			status, got := raw(t, host, path)
			wantStatus := http.StatusOK
			if want == "" {
				wantStatus = http.StatusNotFound
				none++
			} else {
				found++
			}
			if status == http.StatusBadRequest && strings.Contains(host, "/") {
				continue // HAProxy knows better than to route it
			}
			if got != want || status != wantStatus {
				t.Errorf("host %q path %q: pod %q, status %d, want %q, %d", host, path, got, status, want, wantStatus)
			}
		}
		if t.Failed() {
			for _, ing := range all {
				t.Logf("%s %+v", ing.Name, ing.Spec)
			}
			for _, line := range entries(r.table) {
				t.Log(line)
			}
			break
		}
	}
	s := r.proxy.Stats()
	t.Logf("%d requests answered by pods, %d by 404; %d reloads, %d changes without", found, none, s.Reloads, s.Changes)
	if found < 100 || none < 10 {
		t.Error("the random Ingresses do not test enough")
	}
}

func seed(t *testing.T) uint64 {
	s := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s = n
	}
	t.Logf("SEED=%d repeats this run", s)
	return s
}
