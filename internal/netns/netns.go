//go:build linux

// Package netns makes, enters and deletes named Linux network namespaces, in the
// way `ip netns` does: a namespace NAME is a bind mount at /run/netns/NAME, so
// both tools see each other's namespaces.
//
// A network namespace belongs to a thread, a goroutine does not: every function
// here works on a goroutine of its own that is locked to its thread, and a thread
// that cannot be brought back to its first namespace is thrown away.
package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Dir is where named namespaces are mounted, as `ip netns` has it.
const Dir = "/run/netns"

// threadNS is the calling thread's namespace (not the process's).
const threadNS = "/proc/thread-self/ns/net"

var (
	// ErrNotNamespace says that a path is there but is no network namespace.
	ErrNotNamespace = errors.New("not a network namespace")
	errAborted      = errors.New("the function ended its goroutine")
)

// Path returns the file of a namespace given by name ("web-1") or by path
// ("/run/netns/web-1", "/proc/123/ns/net"); a path is returned as it is, and the
// empty name is the calling thread's namespace.
func Path(nameOrPath string) string {
	if nameOrPath == "" {
		return threadNS
	}
	if strings.Contains(nameOrPath, "/") {
		return nameOrPath
	}
	return filepath.Join(Dir, nameOrPath)
}

// Open returns a handle on a namespace given by name or path. The caller closes
// it: an open handle keeps the namespace alive. Errors wrap os.ErrNotExist or
// ErrNotNamespace.
func Open(nameOrPath string) (netns.NsHandle, error) {
	path := Path(nameOrPath)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // a FIFO would make us wait for its writer
	if err != nil {
		return netns.None(), fmt.Errorf("network namespace %s: %w (make it with `ip netns add`)", path, err)
	}
	// NS_GET_NSTYPE: <linux/nsfs.h>; any other file answers ENOTTY.
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		unix.Close(fd)
		return netns.None(), fmt.Errorf("%s: %w", path, ErrNotNamespace)
	}
	return netns.NsHandle(fd), nil
}

// Create makes a named namespace with its loopback up and returns its path. The
// error wraps os.ErrExist when the name is taken. An empty file that a crashed
// Create left behind is used again.
func Create(name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return "", fmt.Errorf("network namespace %q: the name must be a plain file name", name)
	}
	path := filepath.Join(Dir, name)
	if h, err := Open(path); err == nil {
		h.Close()
		return "", fmt.Errorf("network namespace %s: %w", path, os.ErrExist)
	}
	if err := shareDir(); err != nil {
		return "", fmt.Errorf("network namespace %s: prepare %s: %w", name, Dir, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return "", fmt.Errorf("network namespace %s: %w", name, err)
	}
	f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Mount(threadNS, path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind mount: %w", err)
		}
		return loopbackUp()
	})
	if err != nil {
		return "", errors.Join(fmt.Errorf("network namespace %s: %w", name, err), Delete(name))
	}
	return path, nil
}

// shareDir makes Dir, and makes it a shared mount point, so that a namespace
// deleted in one mount namespace does not stay mounted in another (ip-netns(8)).
func shareDir() error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(Dir, Dir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", Dir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	return err
}

func loopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}

// Delete removes a named namespace; a name that is not there is no error. The
// kernel frees the namespace, and the devices in it, when no process, socket or
// open handle uses it any more.
func Delete(name string) error {
	path := filepath.Join(Dir, filepath.Base(name))
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("network namespace %s: unmount: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("network namespace %s: %w", name, err)
	}
	return nil
}

// Do runs fn inside a namespace given by name or path and returns its error. fn
// runs on another goroutine than the caller's and must not start goroutines that
// count on the namespace. "" runs fn in the caller's namespace.
func Do(nameOrPath string, fn func() error) error {
	if nameOrPath == "" {
		return fn()
	}
	h, err := Open(nameOrPath)
	if err != nil {
		return err
	}
	defer h.Close()
	return onThread(func() error {
		if err := netns.Set(h); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", Path(nameOrPath), err)
		}
		return fn()
	})
}

// Start starts cmd inside a namespace given by name or path. /sys is not mounted
// anew, unlike `ip netns exec`. cmd must not set Pdeathsig, which fires when the
// starting thread ends.
func Start(nameOrPath string, cmd *exec.Cmd) error {
	return Do(nameOrPath, cmd.Start)
}

// onThread runs fn on a locked thread and brings the thread back to the namespace
// that it came from. If that fails the goroutine ends locked, and the runtime
// then ends the thread, so that no other goroutine ever runs in the wrong
// namespace.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errAborted // what stands if fn calls runtime.Goexit (t.Fatal does)
		defer func() { done <- err }()
		runtime.LockOSThread()
		home, herr := netns.GetFromPath(threadNS)
		if herr != nil {
			runtime.UnlockOSThread()
			err = fmt.Errorf("open %s: %w", threadNS, herr)
			return
		}
		defer func() {
			if netns.Set(home) == nil {
				runtime.UnlockOSThread()
			}
			home.Close()
		}()
		err = fn()
	}()
	return <-done
}
