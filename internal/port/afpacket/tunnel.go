//go:build linux

package afpacket

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/port"
)

const (
	cloneDevice = "/dev/net/tun"
	// From <linux/if_tun.h>, Linux 6.17: newer than x/sys.
	tunUDPTunnelGSO     = 0x080 // TUN_F_UDP_TUNNEL_GSO
	tunUDPTunnelGSOCsum = 0x100 // TUN_F_UDP_TUNNEL_GSO_CSUM

	plainOffloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
	usoOffloads   = plainOffloads | unix.TUN_F_USO4 | unix.TUN_F_USO6
)

// tunnelDevice is the way of tunnel superpackets, which a packet socket refuses: a
// private TAP beside the uplink, on whose ingress a program sends every packet out
// of the uplink. All of it ends with its descriptors.
type tunnelDevice struct {
	fd      int // -1: closed
	program link.Link
}

// knowsUSO reports whether the kernel's vnet header knows UDP superpackets. That
// came to packet sockets and to TAPs in one change (Linux 6.2), and a TAP can be
// asked.
func (t *tunnelDevice) knowsUSO() bool {
	return unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, usoOffloads) == nil
}

// newTunnelTAP makes the TAP of an uplink in the calling thread's namespace, without
// any way to the uplink yet.
func newTunnelTAP(name string) (*tunnelDevice, error) {
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cloneDevice, err)
	}
	t := &tunnelDevice{fd: fd}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		// Alone: a TAP of that name that is there already is somebody's.
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make TAP %s: %w", name, err), t.close())
	}
	return t, nil
}

// connect leads the TAP to the uplink, in the calling thread's namespace. An error
// says which step this kernel does not have.
func (t *tunnelDevice) connect(name, uplink string, ifindex int) error {
	if err := unix.IoctlSetPointerInt(t.fd, unix.TUNSETVNETHDRSZ, port.VnetTunnelLen); err != nil {
		return fmt.Errorf("TUNSETVNETHDRSZ %d: %w", port.VnetTunnelLen, err)
	}
	if err := unix.IoctlSetInt(t.fd, unix.TUNSETOFFLOAD, usoOffloads|tunUDPTunnelGSO|tunUDPTunnelGSOCsum); err != nil {
		return fmt.Errorf("TUNSETOFFLOAD %#x: %w (UDP tunnel superpackets need Linux 6.17)", usoOffloads|tunUDPTunnelGSO|tunUDPTunnelGSOCsum, err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer h.Close()
	tap, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find TAP %s: %w", name, err)
	}
	if err := h.LinkSetAlias(tap, "vrouter: tunnel superpackets to "+uplink); err != nil {
		return fmt.Errorf("mark TAP %s: %w", name, err)
	}
	// Without IPv6 the kernel has nothing to say on it. Nothing depends on that, and
	// /proc/sys may be read-only in a container.
	_ = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6"), []byte("1"), 0)
	if t.program, err = redirect(tap.Attrs().Index, ifindex); err != nil {
		return err
	}
	if err := h.LinkSetUp(tap); err != nil {
		return fmt.Errorf("set TAP %s up: %w", name, err)
	}
	return nil
}

// redirect makes what arrives on one interface leave through another.
func redirect(from, to int) (link.Link, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "vrouter_uplink", Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, int32(to)),
			asm.Mov.Imm(asm.R2, 0), // flags: egress
			asm.FnRedirect.Call(),
			asm.Return(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("load BPF program: %w (needs CAP_BPF or CAP_SYS_ADMIN)", err)
	}
	defer program.Close() // the link keeps it
	attached, err := link.AttachTCX(link.TCXOptions{Interface: from, Program: program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return nil, fmt.Errorf("attach BPF program to interface %d: %w (needs Linux 6.6)", from, err)
	}
	return attached, nil
}

// close removes the TAP.
func (t *tunnelDevice) close() error {
	var err error
	if t.program != nil {
		err = t.program.Close()
	}
	if t.fd >= 0 {
		err = errors.Join(err, unix.Close(t.fd))
	}
	t.program, t.fd = nil, -1
	return err
}
