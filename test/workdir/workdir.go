//go:build linux

// Package workdir names what a run of privileged tests makes on the machine, so that the
// next run can remove what a killed one has left.
package workdir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

const suffix = "-e2e"

// Path returns the calling process's directory, which it makes and removes itself. Every
// program that it starts for long has to have the directory in its command line.
func Path(prefix string) string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("%s%d%s", prefix, os.Getpid(), suffix))
}

// CleanUp ends the programs of earlier runs with the same prefix that were killed, and
// removes their namespaces (netns.Name) and directories (Path).
func CleanUp(prefix string) error {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"+suffix))
	for _, dir := range left {
		pid, aerr := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(dir), prefix), suffix))
		if aerr != nil || unix.Kill(pid, 0) != unix.ESRCH {
			continue
		}
		commands, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is a good one
		for _, file := range commands {
			line, _ := os.ReadFile(file) // it may have ended meanwhile
			if p, aerr := strconv.Atoi(filepath.Base(filepath.Dir(file))); aerr == nil && bytes.Contains(line, []byte(dir+"/")) {
				_ = unix.Kill(p, unix.SIGKILL) // likewise
			}
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}
	_, nerr := netns.Cleanup(prefix)
	if err := errors.Join(err, nerr); err != nil {
		return fmt.Errorf("clean up after an earlier run: %w", err)
	}
	return nil
}
