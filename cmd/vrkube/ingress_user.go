package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// becomeUser gives up root for good: this process and all that it starts are the
// user, who may bind low ports and nothing else, and can gain nothing by running other
// programs. directory becomes the user's. Without root it only makes sure of the last.
func becomeUser(name, directory string) error {
	if os.Geteuid() != 0 {
		return noNewPrivileges()
	}
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("--user: %w", err)
	}
	uid, errUID := strconv.Atoi(u.Uid)
	gid, errGID := strconv.Atoi(u.Gid)
	if err := errors.Join(errUID, errGID); err != nil {
		return fmt.Errorf("--user %s: %w", name, err)
	}
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	if err := os.Chown(directory, uid, gid); err != nil {
		return err
	}
	bind := cap.NewSet()
	if ok, _ := cap.GetProc().GetFlag(cap.Permitted, cap.NET_BIND_SERVICE); ok {
		for _, flag := range [...]cap.Flag{cap.Permitted, cap.Effective, cap.Inheritable} {
			if err := bind.SetFlag(flag, true, cap.NET_BIND_SERVICE); err != nil {
				return err
			}
		}
	}
	if err := dropBounds(); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	// Capabilities are kept over the change of the user, and cut down after it.
	if _, _, errno := psx.Syscall3(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); errno != 0 {
		return fmt.Errorf("keep capabilities: %w", errno)
	}
	if err := errors.Join(cap.SetGroups(gid), cap.SetUID(uid)); err != nil {
		return fmt.Errorf("become %s: %w", name, err)
	}
	if err := bind.SetProc(); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	if ok, _ := bind.GetFlag(cap.Permitted, cap.NET_BIND_SERVICE); ok {
		if err := cap.SetAmbient(true, cap.NET_BIND_SERVICE); err != nil {
			return fmt.Errorf("let HAProxy bind low ports: %w", err)
		}
	}
	return noNewPrivileges()
}

// dropBounds takes all but the one capability out of reach of anything that is
// started.
func dropBounds() error {
	var errs []error
	for v := cap.Value(0); v < cap.MaxBits(); v++ {
		if on, err := cap.GetBound(v); err == nil && on && v != cap.NET_BIND_SERVICE {
			errs = append(errs, cap.DropBound(v))
		}
	}
	return errors.Join(errs...)
}

func noNewPrivileges() error {
	// On every thread of the process.
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	return nil
}
