package cnifiles

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
)

const conflist = `{"cniVersion": "1.1.0", "name": "vrouter", "plugins": [{"type": "vrouter-cni"}]}`

// files is an installation into directories of the test, which are not there yet.
func files(t *testing.T) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{
		Binary: filepath.Join(dir, "plugin"), Plugin: "vrouter-cni", BinDir: filepath.Join(dir, "opt/cni/bin"),
		ConfDir: filepath.Join(dir, "etc/cni/net.d"), ConfName: "10-vrouter.conflist", Conflist: []byte(conflist),
	}
	if err := os.WriteFile(f.Binary, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestInstall installs twice and removes twice; the runtime's own library is the judge.
func TestInstall(t *testing.T) {
	f := files(t)
	for range 2 {
		if err := f.Install(); err != nil {
			t.Fatal(err)
		}
	}
	list, err := libcni.LoadNetworkConf(f.ConfDir, "vrouter")
	if err != nil || list.Plugins[0].Network.Type != f.Plugin {
		t.Fatalf("the runtime reads %v: %v", list, err)
	}
	if info, err := os.Stat(filepath.Join(f.BinDir, f.Plugin)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the binary: %v %v", info, err)
	}
	for _, dir := range []string{f.BinDir, f.ConfDir} {
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("%s holds %v", dir, entries)
		}
	}
	for range 2 {
		if err := f.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := libcni.LoadNetworkConf(f.ConfDir, "vrouter"); err == nil {
		t.Error("the configuration is still there")
	}
}

// TestConfigurationLast holds that no configuration comes where the plugin does not, and
// that a file that is the same is not written again.
func TestConfigurationLast(t *testing.T) {
	f := files(t)
	if err := os.MkdirAll(filepath.Join(f.BinDir, f.Plugin, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if f.Install() == nil {
		t.Fatal("a directory was replaced by the plugin")
	}
	if entries, _ := os.ReadDir(f.ConfDir); len(entries) != 0 {
		t.Errorf("a configuration without its plugin: %v", entries)
	}
	if entries, _ := os.ReadDir(f.BinDir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	g := files(t)
	if err := g.Install(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(g.ConfDir, g.ConfName)
	before, _ := os.Stat(path)
	if err := g.Install(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Error("the same configuration was written again")
	}
	g.Conflist = []byte(strings.Replace(conflist, "1.1.0", "1.0.0", 1))
	if err := g.Install(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || os.SameFile(before, after) {
		t.Error("another configuration was written into the old file")
	}
}

// TestReadersSeeWholeFiles replaces the configuration while others read it.
func TestReadersSeeWholeFiles(t *testing.T) {
	f := files(t)
	long := strings.Replace(conflist, `"name"`, `"x":"`+strings.Repeat("y", 100_000)+`","name"`, 1)
	if err := f.Install(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			if b, err := os.ReadFile(filepath.Join(f.ConfDir, f.ConfName)); err != nil || string(b) != conflist && string(b) != long {
				t.Errorf("read %d bytes: %v", len(b), err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := range 100 {
		f.Conflist = []byte([]string{conflist, long}[i%2])
		if err := f.Install(); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	readers.Wait()
}

// TestBefore names the configurations that win over ours.
func TestBefore(t *testing.T) {
	f := files(t)
	if err := f.Install(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"05-other.conf", "99-late.conflist", "00-no-network.txt", "10-flannel.conflist"} {
		if err := os.WriteFile(filepath.Join(f.ConfDir, name), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if before, err := f.Before(); err != nil || !slices.Equal(before, []string{"05-other.conf", "10-flannel.conflist"}) {
		t.Errorf("%v, %v", before, err)
	}
}

// TestRefused holds wrong installations to an error, with nothing written.
func TestRefused(t *testing.T) {
	for name, change := range map[string]func(*Files){
		"no .conflist":    func(f *Files) { f.ConfName = "10-vrouter.conf" },
		"a path as name":  func(f *Files) { f.ConfName = "../x.conflist" },
		"no JSON":         func(f *Files) { f.Conflist = []byte("{") },
		"another plugin":  func(f *Files) { f.Conflist = []byte(strings.Replace(conflist, "vrouter-cni", "bridge", 1)) },
		"a plugin's path": func(f *Files) { f.Plugin = "../sh" },
		"no binary":       func(f *Files) { f.Binary += "x" },
	} {
		f := files(t)
		change(&f)
		if err := f.Install(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		for _, dir := range []string{f.BinDir, f.ConfDir} {
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("%s: wrote %v", name, entries)
			}
		}
	}
}

// TestFlags reads the arguments of the manifests' init container.
func TestFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "conflist")
	if err := os.WriteFile(path, []byte(conflist), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := FromFlags([]string{"--bin-dir", "/host/bin", "--conf-dir", "/host/conf", "--conf-name", "05-x.conflist", "--conflist", path})
	if err != nil || f.BinDir != "/host/bin" || f.ConfDir != "/host/conf" || f.ConfName != "05-x.conflist" || string(f.Conflist) != conflist || f.Binary == "" {
		t.Errorf("%+v, %v", f, err)
	}
	for _, args := range [][]string{nil, {"--conflist", path, "more"}, {"--conflist", path + "x"}} {
		if _, err := FromFlags(args); err == nil {
			t.Errorf("%v: accepted", args)
		}
	}
}
