//go:build linux && kube

package kube_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	authorization "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/test/kube/cluster"
	"github.com/vrouter-go/vrouter/test/kube/control"
)

// release is the namespace that the plain manifests install into.
const release = "vrouter-system"

// TestDeploy holds the chart and the manifests to a real API server: every object that
// they make with whatever values is accepted without a warning, with every field known;
// and the accounts may do what their programs do, and nothing else.
func TestDeploy(t *testing.T) {
	t.Parallel()
	server := startAPIServer(t)
	t.Run("the manifests are what the chart renders", func(t *testing.T) {
		for file, args := range map[string][]string{
			"vrouter.yaml": {"-set", "namespace.create=true", "-templates", "node"},
			"ingress.yaml": {"-set", "ingress.enabled=true", "-templates", "ingress"},
		} {
			have, err := os.ReadFile("../../deploy/kubernetes/" + file)
			if err != nil {
				t.Fatal(err)
			}
			if _, have, _ := bytes.Cut(have, []byte("\n# ")); !bytes.HasSuffix(have, []byte("\n"+render(t, args...))) {
				t.Errorf("%s differs from what the chart renders; run make gen", file)
			}
		}
	})
	server.create(t, metav1.CreateOptions{}, []*unstructured.Unstructured{namespace(release), namespace("shop")})
	t.Run("accepted", func(t *testing.T) {
		for name, args := range map[string][]string{
			"as it is":   nil,
			"everything": {"-set", "namespace.create=true,ingress.enabled=true,apiServer.host=192.0.2.1,vrkube.mtu=1400,vrkube.uplink=eth0,vrkube.externalIPs=true,vrkube.healthz=0.0.0.0:10256,vrkube.nodePortAddresses[0]=192.0.2.0/24"},
			"host ports, some secrets": {"-set", "ingress.enabled=true,ingress.hostPorts=true,ingress.service.create=false,ingress.replicas=1",
				"-set", "ingress.secrets[0].namespace=shop,ingress.secrets[0].names[0]=shop-tls"},
			"privileged, no CNI": {"-set", "vrouter.privileged=true,cni.install=false,clusterNetworkPolicy.enabled=false,vrouter.metricsAddress="},
			"default class":      {"-set", "ingress.enabled=true,ingress.class.default=true,ingress.service.type=ClusterIP,imagePullSecrets[0].name=registry"},
			"annotated": {"-set", "serviceAccount.annotations.a=b,ingress.enabled=true,ingress.service.annotations.a=b,vrkube.args[0]=--log=debug",
				"-set", "ingress.tolerations[0].operator=Exists,ingress.priorityClassName=system-cluster-critical"},
		} {
			t.Run(name, func(t *testing.T) {
				objects := parse(t, render(t, args...))
				if len(objects) < 7 {
					t.Fatalf("%d objects", len(objects))
				}
				server.create(t, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}, objects)
			})
		}
	})
	t.Run("a field that nobody knows is refused", func(t *testing.T) { // the judge can fail
		wrong := parse(t, strings.Replace(render(t), "hostNetwork: true", "hostNetwrok: true", 1))
		for _, o := range wrong {
			if err := server.tryCreate(metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}, o); err != nil {
				return
			}
		}
		t.Error("hostNetwrok was accepted")
	})
	t.Run("rights", func(t *testing.T) { server.rights(t) })
}

// rights checks what the accounts may do, by the API server's own judgement and by doing it.
func (s *apiServer) rights(t *testing.T) {
	s.create(t, metav1.CreateOptions{}, parse(t, render(t, "-set", "ingress.enabled=true",
		"-set", "ingress.secrets[0].namespace=shop,ingress.secrets[0].names[0]=shop-tls")))
	secrets := func(names ...string) {
		for _, name := range names {
			s.create(t, metav1.CreateOptions{}, []*unstructured.Unstructured{{Object: map[string]any{
				"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name, "namespace": "shop"},
			}}})
		}
	}
	secrets("shop-tls", "other")
	read := []string{"get", "list", "watch"}
	for _, c := range []struct {
		account, group, resource, namespace, name string
		verbs                                     []string
		allowed                                   bool
	}{
		{"vrkube", "", "namespaces", "", "", read, true},
		{"vrkube", "", "nodes", "", "", read, true},
		{"vrkube", "", "pods", "", "", read, true},
		{"vrkube", "", "services", "", "", read, true},
		{"vrkube", "discovery.k8s.io", "endpointslices", "", "", read, true},
		{"vrkube", "networking.k8s.io", "networkpolicies", "", "", read, true},
		{"vrkube", "networking.k8s.io", "servicecidrs", "", "", read, true},
		{"vrkube", "policy.networking.k8s.io", "clusternetworkpolicies", "", "", read, true},
		{"vrkube", "", "events", "shop", "", []string{"create", "patch"}, true},
		{"vrkube", "", "secrets", "shop", "", read, false},
		{"vrkube", "", "configmaps", "shop", "", read, false},
		{"vrkube", "", "pods", "shop", "", []string{"create", "update", "patch", "delete"}, false},
		{"vrkube", "", "pods/exec", "shop", "", []string{"create"}, false},
		{"vrkube", "", "services", "shop", "", []string{"create", "update", "patch", "delete"}, false},
		{"vrkube", "", "nodes/status", "", "", []string{"update", "patch"}, false},
		{"vrkube", "rbac.authorization.k8s.io", "clusterroles", "", "", []string{"get", "bind", "escalate"}, false},
		{"vrkube", "", "serviceaccounts/token", release, "", []string{"create"}, false},
		{"vrouter", "", "pods", "", "", read, false},
		{"vrouter", "", "secrets", "", "", read, false},
		{"vrouter-ingress", "networking.k8s.io", "ingresses", "", "", read, true},
		{"vrouter-ingress", "networking.k8s.io", "ingressclasses", "", "", read, true},
		{"vrouter-ingress", "networking.k8s.io", "ingresses/status", "shop", "", []string{"update", "patch"}, true},
		{"vrouter-ingress", "", "services", "", "", read, true},
		{"vrouter-ingress", "discovery.k8s.io", "endpointslices", "", "", read, true},
		{"vrouter-ingress", "", "secrets", "shop", "shop-tls", read, true},
		{"vrouter-ingress", "", "secrets", "shop", "other", read, false},
		{"vrouter-ingress", "", "secrets", "shop", "", read, false},
		{"vrouter-ingress", "", "secrets", "shop", "shop-tls", []string{"update", "delete", "create"}, false},
		{"vrouter-ingress", "networking.k8s.io", "ingresses", "shop", "", []string{"create", "update", "patch", "delete"}, false},
		{"vrouter-ingress", "", "pods", "", "", read, false},
	} {
		for _, verb := range c.verbs {
			resource, sub, _ := strings.Cut(c.resource, "/")
			answer, err := s.client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorization.SubjectAccessReview{Spec: authorization.SubjectAccessReviewSpec{
				User: user(c.account), Groups: []string{"system:serviceaccounts", "system:authenticated"},
				ResourceAttributes: &authorization.ResourceAttributes{Namespace: c.namespace, Verb: verb, Group: c.group, Resource: resource, Subresource: sub, Name: c.name},
			}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if answer.Status.Allowed != c.allowed {
				t.Errorf("%s %s %s/%s %s: allowed %v, want %v", c.account, verb, c.resource, c.name, c.group, answer.Status.Allowed, c.allowed)
			}
		}
	}
	vrkube, err := kubernetes.NewForConfig(s.as("vrkube"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vrkube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("vrkube lists pods: %v", err)
	}
	if _, err := vrkube.CoreV1().Secrets("shop").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("vrkube lists secrets: %v, want forbidden", err)
	}
	ingress, err := kubernetes.NewForConfig(s.as("vrouter-ingress"))
	if err != nil {
		t.Fatal(err)
	}
	one := metav1.ListOptions{FieldSelector: "metadata.name=shop-tls"} // as it watches them
	if list, err := ingress.CoreV1().Secrets("shop").List(t.Context(), one); err != nil || len(list.Items) != 1 {
		t.Errorf("vrouter-ingress lists its Secret by name: %v", err)
	}
	if _, err := ingress.CoreV1().Secrets("shop").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("vrouter-ingress lists all secrets: %v, want forbidden", err)
	}
}

func user(account string) string { return "system:serviceaccount:" + release + ":" + account }

func namespace(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}}}
}

// render renders the chart.
func render(t *testing.T, args ...string) string {
	t.Helper()
	var errs strings.Builder
	cmd := exec.Command("../../tools/helm.sh", append([]string{"--render"}, args...)...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helm.sh --render %v: %v\n%s", args, err, errs.String())
	}
	return string(out)
}

// parse reads the objects of a manifest.
func parse(t *testing.T, text string) (list []*unstructured.Unstructured) {
	t.Helper()
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), len(text)+1)
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		if o.Object != nil {
			list = append(list, o)
		}
	}
}

// apiServer is a kube-apiserver that runs, and its clients as administrator.
type apiServer struct {
	config *rest.Config
	client kubernetes.Interface
	any    dynamic.Interface
	mapper meta.RESTMapper
	// warned are the API server's warnings.
	warned *warnings
}

// warnings collects the warnings of answers.
type warnings struct{ list []string }

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) { w.list = append(w.list, text) }

// as is how an account reaches the API server.
func (s *apiServer) as(account string) *rest.Config {
	c := rest.CopyConfig(s.config)
	c.Impersonate = rest.ImpersonationConfig{UserName: user(account), Groups: []string{"system:serviceaccounts", "system:authenticated"}}
	return c
}

// create creates objects, with every field checked, and fails on errors and warnings.
func (s *apiServer) create(t *testing.T, o metav1.CreateOptions, objects []*unstructured.Unstructured) {
	t.Helper()
	s.warned.list = nil
	for _, object := range objects {
		err := s.tryCreate(o, object)
		if apierrors.IsAlreadyExists(err) && object.GetKind() == "Namespace" {
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
	if len(s.warned.list) > 0 {
		t.Errorf("the API server warns: %q", s.warned.list)
	}
}

func (s *apiServer) tryCreate(o metav1.CreateOptions, object *unstructured.Unstructured) error {
	mapping, err := s.mapper.RESTMapping(object.GroupVersionKind().GroupKind(), object.GroupVersionKind().Version)
	if err != nil {
		return err
	}
	o.FieldValidation = metav1.FieldValidationStrict
	var resource dynamic.ResourceInterface = s.any.Resource(schema.GroupVersionResource(mapping.Resource))
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		resource = s.any.Resource(mapping.Resource).Namespace(object.GetNamespace())
	}
	_, err = resource.Create(context.Background(), object, o)
	return err
}

// startAPIServer runs a control plane, and no node, in a network namespace of its own
// until the test ends.
func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	need(t)
	ns := netns.Name(prefix, "deploy")
	if _, err := netns.Create(ns); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(ns); err != nil {
			t.Error(err)
		}
	})
	if out, err := exec.Command("ip", "netns", "exec", ns, "sh", "-ec", "ip link set lo up; ip addr add 192.0.2.1/32 dev lo").CombinedOutput(); err != nil {
		t.Fatalf("lo: %v %s", err, out)
	}
	plane, err := control.Start(t.Context(), control.Options{
		Namespace: ns, Dir: filepath.Join(work, "deploy"), Binaries: binaries, Address: netip.MustParseAddr("192.0.2.1"),
		Services: cluster.Services, Pods: cluster.Pods,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
	})
	return newAPIServer(t, plane)
}

// newAPIServer is the API server of a control plane, for its administrator.
func newAPIServer(t *testing.T, plane *control.Plane) *apiServer {
	t.Helper()
	config, err := plane.Config(control.Admin)
	if err != nil {
		t.Fatal(err)
	}
	s := &apiServer{config: config, warned: &warnings{}}
	config.WarningHandler = s.warned
	if s.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if s.any, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(s.client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	s.mapper = restmapper.NewDiscoveryRESTMapper(groups)
	return s
}
