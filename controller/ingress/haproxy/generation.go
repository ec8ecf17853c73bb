package haproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vrouter-go/vrouter/controller/ingress/routing"
)

// generation is a directory with one configuration and all that it names.
type generation struct {
	name string // "gen-7", also the configuration's description
	dir  string
}

func (g generation) path(file string) string { return filepath.Join(g.dir, file) }
func (g generation) admin() socket           { return socket(g.path(adminFile)) }

// write makes the files of a table in a new directory that only this user reads.
func (s *Settings) write(number int, t *routing.Table, v6 bool) (generation, error) {
	name := fmt.Sprintf("gen-%d", number)
	g := generation{name: name, dir: filepath.Join(s.Directory, name)}
	if err := os.RemoveAll(g.dir); err != nil {
		return g, err
	}
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return g, err
	}
	config, err := s.config(t, g.dir, name, v6)
	if err != nil {
		return g, err
	}
	files := map[string][]byte{
		configFile: config,
		routesFile: []byte(strings.Join(entries(t), "\n") + "\n"),
		listFile:   certificateList(t, g.dir),
	}
	for i := range t.Certificates {
		files[t.Certificates[i].ID+".pem"] = t.Certificates[i].PEM
	}
	if d := t.DefaultCertificate; d != nil {
		files[d.ID+".pem"] = d.PEM
	}
	for file, content := range files {
		if err := os.WriteFile(g.path(file), content, 0o600); err != nil {
			return g, err
		}
	}
	return g, nil
}

// checkTimeout bounds `haproxy -c`, which reads every certificate.
const checkTimeout = time.Minute

// check asks HAProxy what it thinks of a configuration.
func (s *Settings) check(ctx context.Context, config string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Binary, "-c", "-q", "-f", config)
	cmd.Dir = s.Directory
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("%s: %w", s.Binary, err)
	}
	return fmt.Errorf("haproxy -c refuses the configuration: %s", alerts(out))
}

// alerts are the lines that say why, without what every run says.
func alerts(out []byte) string {
	var lines []string
	for line := range bytes.Lines(out) {
		if text := strings.TrimSpace(string(line)); strings.HasPrefix(text, "[ALERT]") && len(lines) < 5 {
			lines = append(lines, text)
		}
	}
	if len(lines) == 0 {
		return strings.TrimSpace(string(out))
	}
	return strings.Join(lines, "; ")
}

// checkCertificate asks HAProxy about one certificate alone: OpenSSL refuses some
// that Go takes, and one such must not keep all the others out.
func (s *Settings) checkCertificate(ctx context.Context, g generation, id string) error {
	file := g.path("check.cfg")
	config := "defaults\n    mode http\n    timeout client 1s\nfrontend check\n    bind unix@" + g.path("check.sock") + " ssl crt " + certificatePath(g.dir, id) + "\n"
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	return s.check(ctx, file)
}

// use makes the generation the one that the master reads.
func (s *Settings) use(g generation) error {
	next := filepath.Join(s.Directory, "next")
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(g.name, next); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(s.Directory, current))
}

// current is the link to the generation in use.
const current = "current"

// clean removes all generations but one, keys before all; keep may be empty.
func (s *Settings) clean(keep string) error {
	dirs, err := filepath.Glob(filepath.Join(s.Directory, "gen-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		if filepath.Base(dir) != keep {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}
