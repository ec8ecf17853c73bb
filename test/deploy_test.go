package test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/vrouter-go/vrouter/agent/config"
)

// manifests decodes the objects of a kind in the plain manifest of the nodes.
func manifests[T any](t *testing.T, kind string) []T {
	t.Helper()
	text, err := os.ReadFile("../deploy/kubernetes/vrouter.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var list []T
	decoder := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text)))
	defer decoder.Close()
	buffer := make([]byte, len(text))
	for {
		n, err := decoder.Read(buffer)
		if errors.Is(err, io.EOF) {
			return list
		}
		var object T
		var head struct {
			Kind string `json:"kind"`
		}
		if err := errors.Join(err, yaml.Unmarshal(buffer[:n], &head)); err != nil {
			t.Fatal(err)
		}
		if head.Kind != kind {
			continue
		}
		if err := yaml.UnmarshalStrict(buffer[:n], &object); err != nil {
			t.Fatal(err)
		}
		list = append(list, object)
	}
}

// TestManifestConfigs holds that what the manifests give to our programs is what
// these take.
func TestManifestConfigs(t *testing.T) {
	files := map[string]string{}
	for _, m := range manifests[core.ConfigMap](t, "ConfigMap") {
		for name, text := range m.Data {
			files[name] = text
		}
	}
	path := filepath.Join(t.TempDir(), "vrouter.yaml")
	if err := os.WriteFile(path, []byte(files["vrouter.yaml"]), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Socket != "/run/vrouter/vrouter.sock" || c.StateDir != "/var/lib/vrouter" || !slices.Contains(c.Roles.Admins.Users, "vrkube") {
		t.Errorf("configuration %+v", c)
	}
	list, err := libcni.NetworkConfFromBytes([]byte(files["conflist"]))
	if err != nil || len(list.Plugins) != 1 || list.Plugins[0].Network.Type != "vrouter-cni" {
		t.Errorf("conflist %v: %v", list, err)
	}
}

// TestManifestPrivileges holds the pods to what their parts need: the forwarder to the
// capabilities of the systemd unit, everything else to none.
func TestManifestPrivileges(t *testing.T) {
	unit, err := os.ReadFile("../deploy/vrouter.service")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindSubmatch(unit)
	if line == nil {
		t.Fatal("the unit names no capabilities")
	}
	want := strings.Fields(strings.ReplaceAll(string(line[1]), "CAP_", ""))
	for _, d := range manifests[apps.DaemonSet](t, "DaemonSet") {
		pod := d.Spec.Template.Spec
		for _, c := range append(pod.InitContainers, pod.Containers...) {
			s := c.SecurityContext
			var have []string
			for _, capability := range s.Capabilities.Add {
				have = append(have, string(capability))
			}
			expected := []string(nil)
			if c.Name == "vrouter" {
				expected = want
			}
			slices.Sort(have)
			slices.Sort(expected)
			if !slices.Equal(have, expected) || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
				t.Errorf("%s adds capabilities %v to none but %v, want %v", c.Name, have, s.Capabilities.Drop, expected)
			}
			if s.Privileged != nil && *s.Privileged || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
				t.Errorf("%s is privileged or may write to its image", c.Name)
			}
		}
		if token := pod.AutomountServiceAccountToken; token == nil || *token != (d.Name == "vrkube") {
			t.Errorf("%s: mounts a token: %v", d.Name, token)
		}
	}
}
