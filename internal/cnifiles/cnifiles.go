// Package cnifiles answers "how does a container runtime find our plugin?": by a binary
// in one directory of the host and a configuration in another. The configuration comes
// last and goes first, each file whole or not at all, so that the runtime never reads a
// configuration of a plugin that is not there.
package cnifiles

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// Files are the plugin's binary and configuration, and where they go.
type Files struct {
	Binary   string // path of the binary to copy
	Plugin   string // its name on the host, which the configuration calls type
	BinDir   string // directory of plugins, for example /opt/cni/bin
	ConfDir  string // directory of configurations, for example /etc/cni/net.d
	ConfName string // file there; runtimes take the first .conflist, .conf or .json of the alphabet
	Conflist []byte // the configuration
}

// FromFlags reads the arguments of an install command. Binary is the running program.
func FromFlags(args []string) (Files, error) {
	f := Files{Plugin: "vrouter-cni"}
	var conflist string
	flags := flag.NewFlagSet("install", flag.ContinueOnError)
	flags.StringVar(&f.BinDir, "bin-dir", "/opt/cni/bin", "directory of plugins on the host")
	flags.StringVar(&f.ConfDir, "conf-dir", "/etc/cni/net.d", "directory of network configurations on the host")
	flags.StringVar(&f.ConfName, "conf-name", "10-vrouter.conflist", "name of the configuration there")
	flags.StringVar(&conflist, "conflist", "", "file with the configuration to install")
	if err := flags.Parse(args); err != nil {
		return f, err
	}
	if flags.NArg() > 0 || conflist == "" {
		return f, errors.New("install takes --conflist FILE and no arguments, for example install --conflist /etc/vrouter-cni/conflist")
	}
	var err error
	if f.Binary, err = os.Executable(); err != nil {
		return f, fmt.Errorf("find the running program: %w", err)
	}
	if f.Conflist, err = os.ReadFile(conflist); err != nil {
		return f, fmt.Errorf("read the configuration to install: %w", err)
	}
	return f, nil
}

// check refuses what no runtime would take.
func (f Files) check() error {
	if filepath.Base(f.ConfName) != f.ConfName || filepath.Ext(f.ConfName) != ".conflist" {
		return fmt.Errorf("configuration name %q: must be a file name that ends in .conflist, for example 10-vrouter.conflist", f.ConfName)
	}
	if f.Plugin == "" || filepath.Base(f.Plugin) != f.Plugin {
		return fmt.Errorf("plugin name %q: must be a file name, for example vrouter-cni", f.Plugin)
	}
	list, err := libcni.NetworkConfFromBytes(f.Conflist)
	if err != nil {
		return fmt.Errorf("configuration %s: %w", f.ConfName, err)
	}
	if !slices.ContainsFunc(list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type == f.Plugin }) {
		return fmt.Errorf("configuration %s: no plugin in it has the type %s; add {\"type\": \"%[2]s\"}", f.ConfName, f.Plugin)
	}
	return nil
}

// Install puts the binary into place, then the configuration, and syncs both to the
// disk. What is there already and the same is left alone: runtimes read a configuration
// again whenever it is written.
func (f Files) Install() error {
	if err := f.check(); err != nil {
		return err
	}
	binary, err := os.ReadFile(f.Binary)
	if err != nil {
		return fmt.Errorf("read the plugin: %w", err)
	}
	if err := replace(filepath.Join(f.BinDir, f.Plugin), binary, 0o755); err != nil {
		return fmt.Errorf("install the plugin: %w", err)
	}
	if err := replace(filepath.Join(f.ConfDir, f.ConfName), f.Conflist, 0o600); err != nil {
		return fmt.Errorf("install the configuration: %w", err)
	}
	return nil
}

// Remove takes the configuration away, then the binary. What is not there is no error.
func (f Files) Remove() error {
	for _, path := range [...]string{filepath.Join(f.ConfDir, f.ConfName), filepath.Join(f.BinDir, f.Plugin)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Before lists the configurations that runtimes take before ours, in order: while there
// is one, ours has no effect.
func (f Files) Before() ([]string, error) {
	all, err := libcni.ConfFiles(f.ConfDir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, err
	}
	var before []string
	for _, path := range all {
		if name := filepath.Base(path); strings.Compare(name, f.ConfName) < 0 {
			before = append(before, name)
		}
	}
	slices.Sort(before)
	return before, nil
}

// replace writes a file beside its place, syncs it and renames it, unless the place has
// the same already. The name of the new file ends in nothing that a runtime reads.
func replace(path string, content []byte, mode fs.FileMode) (err error) {
	if same(path, content, mode) {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	_, err = file.Write(content)
	if err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err != nil {
		return err
	}
	if err = os.Rename(file.Name(), path); err != nil {
		return err
	}
	return syncDirectory(dir)
}

// same reports whether a file has this content and mode.
func same(path string, content []byte, mode fs.FileMode) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != mode || info.Size() != int64(len(content)) {
		return false
	}
	have, err := io.ReadAll(file)
	return err == nil && bytes.Equal(have, content)
}

// syncDirectory makes a rename durable.
func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
