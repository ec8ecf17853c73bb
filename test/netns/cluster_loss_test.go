package netns_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestClusterLoss: TCP through a wire that loses and reorders frames brings every byte.
func TestClusterLoss(t *testing.T) {
	t.Parallel()
	need(t, "nft")
	c := newCluster(t, clusterOptions{nodes: 2})
	c.note("TCP_OUT_OF_WINDOW") // what is sent again though it has long been acknowledged
	from, to := c.nodes[0].pods[0], c.nodes[1].pods[0]
	for _, percent := range []int{1, 5} {
		t.Run(fmt.Sprintf("%d percent lost", percent), func(t *testing.T) {
			c.run("wire", "nft", fmt.Sprintf(`table netdev loss {
				chain n1 { type filter hook ingress device n1 priority 0; numgen random mod 100 < %d counter drop; }
				chain n2 { type filter hook ingress device n2 priority 0; numgen random mod 100 < %[1]d counter drop; }
			}`, percent))
			for f := range service {
				from.upload(t, from.name, at(to.address[f], sinkPort), 2<<20)
				to.upload(t, to.name, at(from.address[f], sinkPort), 2<<20)
			}
			if out := c.run("wire", "nft", "list", "table", "netdev", "loss"); strings.Contains(out, "packets 0") {
				t.Errorf("nothing was lost:\n%s", out)
			}
			c.run("wire", "nft", "delete", "table", "netdev", "loss")
		})
	}
	t.Run("reordered", func(t *testing.T) {
		// The shim reads plain frames, which is what is on this wire.
		swapped := c.shuffle("n2")
		for f := range service {
			from.upload(t, from.name, at(to.address[f], sinkPort), 2<<20)
			to.upload(t, to.name, at(from.address[f], sinkPort), 2<<20)
		}
		if n := swapped(); n < 50 {
			t.Errorf("only %d frames were overtaken", n)
		}
	})
}

// shuffle puts a shim between a port of the wire and the bridge: of every eight
// frames that pass, it holds one back until three more have passed. The function that
// it returns ends it and says how many were overtaken.
func (c *cluster) shuffle(port string) (overtaken func() int) {
	c.t.Helper()
	c.ip("wire", "link set "+port+" nomaster")
	c.ip("wire", "link set "+port+" promisc on")
	c.ip("wire", "link add shim0 type veth peer name shim1")
	c.ip("wire", "link set shim0 up promisc on")
	c.ip("wire", "link set shim1 master br0 up")
	var sockets [2]int
	c.in("wire", func() error {
		for i, name := range []string{port, "shim0"} {
			link, err := net.InterfaceByName(name)
			if err != nil {
				return err
			}
			if sockets[i], err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			timeout := unix.Timeval{Usec: 20_000} // a held frame does not wait for ever
			err = errors.Join(unix.Bind(sockets[i], &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8, Ifindex: link.Index}),
				unix.SetsockoptInt(sockets[i], unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
				unix.SetsockoptTimeval(sockets[i], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
			if err != nil {
				return err
			}
		}
		return nil
	})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var counts [2]int
	for i := range sockets {
		wg.Go(func() { counts[i] = reorder(sockets[i], sockets[1-i], stop) })
	}
	var once sync.Once
	end := func() {
		once.Do(func() {
			close(stop)
			wg.Wait()
			_, _ = unix.Close(sockets[0]), unix.Close(sockets[1])
		})
	}
	c.t.Cleanup(end)
	return func() int { end(); return counts[0] + counts[1] }
}

// reorder passes frames from one packet socket to another and returns how many were
// overtaken by others.
func reorder(from, to int, stop chan struct{}) (overtaken int) {
	b := make([]byte, 1<<16)
	var held []byte
	behind, passed := 0, 0
	release := func() {
		if held == nil {
			return
		}
		_ = unix.Send(to, held, 0) // lost, where the device is full
		if behind > 0 {
			overtaken++
		}
		held, behind = nil, 0
	}
	for {
		select {
		case <-stop:
			return overtaken
		default:
		}
		n, sender, err := unix.Recvfrom(from, b, 0)
		if err != nil { // nothing came for a while
			release()
			continue
		}
		if s, ok := sender.(*unix.SockaddrLinklayer); ok && s.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if passed++; passed%8 == 0 && held == nil {
			held = append([]byte(nil), b[:n]...)
			continue
		}
		_ = unix.Send(to, b[:n], 0)
		if held != nil {
			if behind++; behind == 3 {
				release()
			}
		}
	}
}
