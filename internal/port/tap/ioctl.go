//go:build linux

package tap

import (
	"errors"
	"fmt"

	"github.com/vrouter-go/vrouter/internal/port"
	"golang.org/x/sys/unix"
)

const cloneDevice = "/dev/net/tun"

// offloads is what we ask of a device with a vnet header, best first: the kernel
// refuses a whole set when it does not know one flag (USO came with 6.2).
var offloads = [...]struct {
	flags    int
	features port.Features
}{
	{
		unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN | unix.TUN_F_USO4 | unix.TUN_F_USO6,
		port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6 | port.FeatureUSO,
	},
	{
		unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN,
		port.FeatureCsum | port.FeatureTSO4 | port.FeatureTSO6,
	},
	{unix.TUN_F_CSUM, port.FeatureCsum},
	{0, 0},
}

// openQueue opens the clone device in the calling thread's namespace and attaches
// it to the TAP called name with the given IFF_ flags. The descriptor is
// non-blocking, which also makes small writes cheap (tun_build_skb). It never
// sets TUNSETSNDBUF, which would undo that.
func openQueue(name string, flags uint16) (int, error) {
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", cloneDevice, err)
	}
	if err := attachQueue(fd, name, flags); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// attachQueue attaches fd and checks that the device has the flags we asked for:
// the kernel drops IFF_VNET_HDR without a word where another queue, attached
// earlier, fixed it.
func attachQueue(fd int, name string, flags uint16) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("name %q: %w", name, err)
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("attach to %s: %w", name, ErrBusy)
		}
		return fmt.Errorf("attach to %s: TUNSETIFF: %w", name, err)
	}
	const kinds = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR
	has, err := queueFlags(fd)
	if err != nil {
		return fmt.Errorf("attach to %s: %w", name, err)
	}
	if has&kinds != flags&kinds {
		return fmt.Errorf("attach to %s: device has flags %#x, want %#x (0x4000 is the vnet header, fixed by the queue attached first): is another process attached?",
			name, has&kinds, flags&kinds)
	}
	return nil
}

// queueFlags returns the IFF_ flags of the device behind fd; EBADFD when the
// device is gone.
func queueFlags(fd int) (uint16, error) {
	ifr := new(unix.Ifreq)
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil {
		return 0, fmt.Errorf("TUNGETIFF: %w", err)
	}
	return ifr.Uint16(), nil
}

// setOffloads turns on the best set of offloads that the kernel takes.
func setOffloads(fd int) (port.Features, error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, port.VnetMergeLen); err != nil {
		return 0, fmt.Errorf("TUNSETVNETHDRSZ %d: %w", port.VnetMergeLen, err)
	}
	var err error
	for _, set := range offloads {
		if err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, set.flags); err == nil {
			return set.features, nil
		}
	}
	return 0, fmt.Errorf("TUNSETOFFLOAD: %w", err)
}

// setPersist says whether the device outlives its last queue.
func setPersist(fd int, on bool) error {
	value := 0
	if on {
		value = 1
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, value); err != nil {
		return fmt.Errorf("TUNSETPERSIST %d: %w", value, err)
	}
	return nil
}

// restoreVnet gives a device back without offloads and with the header length it
// was found with.
func restoreVnet(fd, hdrLen int) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return fmt.Errorf("TUNSETOFFLOAD 0: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, hdrLen); err != nil {
		return fmt.Errorf("TUNSETVNETHDRSZ %d: %w", hdrLen, err)
	}
	return nil
}
