package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
	"kernel.org/pub/linux/libs/security/libcap/psx"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// kept are the capabilities that the daemon needs as long as it runs, for TAP
// devices and the uplink come and go: CAP_NET_ADMIN makes and configures them and
// holds the uplink's nftables table, CAP_NET_RAW opens the uplink's packet sockets,
// CAP_SYS_ADMIN enters workloads' network namespaces (setns(2)) and loads the program
// that sends tunnel superpackets (bpf(2)), and CAP_DAC_OVERRIDE opens the files of
// namespaces and state that belong to others than root.
var kept = [...]cap.Value{cap.NET_ADMIN, cap.NET_RAW, cap.SYS_ADMIN, cap.DAC_OVERRIDE}

// dropPrivileges gives up every other capability for good, also for programs that
// the process might start.
func dropPrivileges() error {
	set := cap.NewSet()
	have := cap.GetProc()
	for _, flag := range [...]cap.Flag{cap.Permitted, cap.Effective} {
		for _, v := range kept {
			if ok, err := have.GetFlag(cap.Permitted, v); err == nil && ok {
				if err := set.SetFlag(flag, true, v); err != nil {
					return err
				}
			}
		}
	}
	var errs []error
	// On every thread of the process, as the capabilities below.
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		errs = append(errs, fmt.Errorf("no_new_privs: %w", errno))
	}
	for v := cap.Value(0); v < cap.MaxBits(); v++ {
		if on, err := cap.GetBound(v); err == nil && on {
			if ok, _ := have.GetFlag(cap.Effective, cap.SETPCAP); ok {
				errs = append(errs, cap.DropBound(v))
			}
		}
	}
	return errors.Join(append(errs, set.SetProc())...)
}

// kernelStatus says what the daemon found the kernel to be; ringsErr is why there
// is no io_uring, nil if there is.
func kernelStatus(ringsErr error) *pb.KernelStatus {
	k := &pb.KernelStatus{}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		k.Release = unix.ByteSliceToString(uts.Release[:])
	}
	uso := &pb.KernelCapability{Name: "tun-uso", Effect: "UDP superpackets pass whole; without it they are segmented (Linux 6.2)"}
	switch major, minor, ok := kernelVersion(k.Release); {
	case !ok:
	case major > 6 || major == 6 && minor >= 2:
		uso.Presence = pb.KernelCapability_PRESENT
	default:
		uso.Presence = pb.KernelCapability_ABSENT
	}
	tun := &pb.KernelCapability{Name: "tun", Presence: pb.KernelCapability_PRESENT, Effect: "TAP devices can be made"}
	if err := unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK); err != nil {
		tun.Presence, tun.Effect = pb.KernelCapability_ABSENT, "no TAP device can be made: /dev/net/tun: "+err.Error()
	}
	uring := &pb.KernelCapability{Name: "io_uring", Presence: pb.KernelCapability_PRESENT, Effect: "small packets are written to TAP devices in batches"}
	if ringsErr != nil {
		uring.Presence = pb.KernelCapability_ABSENT
		uring.Effect = "each small packet costs a system call of its own, a fifth more time (Linux 5.18, sysctl kernel.io_uring_disabled): " + ringsErr.Error()
	}
	k.Capabilities = []*pb.KernelCapability{tun, uso, uring}
	return k
}

func kernelVersion(release string) (major, minor int, ok bool) {
	n, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return major, minor, err == nil && n == 2
}

// sdNotify sends a message to systemd.
func sdNotify(path, message string) error {
	conn, err := net.Dial("unixgram", strings.Replace(path, "@", "\x00", 1))
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return errors.Join(err, conn.Close())
}

// Exit codes, as the command line's contract names them.
const (
	exitError = 1
	exitUsage = 2
)

// exitCode tells a wrong command line from a failure.
func exitCode(err error) int {
	text := err.Error()
	for _, usage := range [...]string{"unknown command", "unknown flag", "unknown shorthand", "required flag", "accepts ", "flag needs an argument", "invalid argument"} {
		if strings.HasPrefix(text, usage) {
			return exitUsage
		}
	}
	return exitError
}
