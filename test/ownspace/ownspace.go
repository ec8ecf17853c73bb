// Package ownspace runs the tests of a package in a network namespace of their own,
// where ports below 1024 and any address are free. The namespace ends with them.
package ownspace

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// inside is set in the process that runs in the namespace.
const inside = "VROUTER_TEST_IN_OWN_NAMESPACE"

// Main is what a TestMain calls. As root it runs the test program once more, in a
// namespace; else here, where Need skips what cannot be.
func Main(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Need skips a test where there is no such namespace.
func Need(t *testing.T) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("SKIP-PRIVILEGED: a network namespace for the tests needs root")
	}
}
