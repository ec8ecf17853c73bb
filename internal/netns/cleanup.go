//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Name returns a namespace name that no other process uses and that Cleanup can
// judge: prefix, process id, "-", suffix.
func Name(prefix, suffix string) string {
	return fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), suffix)
}

// List returns the named namespaces that begin with prefix, in name order.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Cleanup deletes the namespaces that Name(prefix, …) made in processes that no
// longer run, and returns their names. Namespaces of running processes, the
// caller's included, and names not made by Name are left alone.
func Cleanup(prefix string) ([]string, error) {
	names, err := List(prefix)
	if err != nil {
		return nil, err
	}
	var deleted []string
	for _, name := range names {
		pid, ok := owner(name, prefix)
		if !ok || alive(pid) {
			continue
		}
		if derr := Delete(name); derr != nil {
			err = errors.Join(err, derr)
			continue
		}
		deleted = append(deleted, name)
	}
	return deleted, err
}

// owner returns the process id in a name made by Name.
func owner(name, prefix string) (pid int, ok bool) {
	digits, _, ok := strings.Cut(strings.TrimPrefix(name, prefix), "-")
	if !ok {
		return 0, false
	}
	pid, err := strconv.Atoi(digits)
	return pid, err == nil && pid > 0
}

func alive(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
