package underlay

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// errMoved says that the name of the namespace stands for another one now.
var errMoved = errors.New("the uplink's namespace was deleted and made again")

// space is the uplink's namespace, open: what the kernel says about it and what was
// found there last.
type space struct {
	device string
	path   string
	ns     vnetns.NsHandle
	h      *netlink.Handle
	peers  []netip.Addr

	done      chan struct{} // closed: the subscriptions end
	neighbors chan netlink.NeighUpdate
	changes   chan struct{} // of links, addresses or routes
	readers   sync.WaitGroup

	stale bool // links, addresses and routes have to be read again
	found routes
	// entries are the kernel's neighbors on the uplink.
	entries map[netip.Addr]entry
	// kept are the next hops that the kernel was told to keep fresh.
	kept map[netip.Addr]struct{}
	// asked are the hosts on the link that flows want to reach (onlink.go), and when they
	// were named last.
	asked map[netip.Addr]time.Time
	news  uint64 // counts MAC addresses that came
}

// open opens the namespace of a target and subscribes to what happens there.
func open(t Target) (*space, error) {
	ns, err := netns.Open(t.Netns)
	if err != nil {
		return nil, err
	}
	s := &space{
		device: t.Device, path: t.Netns, ns: ns, peers: t.Peers, stale: true,
		done: make(chan struct{}), neighbors: make(chan netlink.NeighUpdate, 64), changes: make(chan struct{}, 1),
		entries: map[netip.Addr]entry{}, kept: map[netip.Addr]struct{}{}, asked: map[netip.Addr]time.Time{},
	}
	if s.h, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err == nil {
		err = s.subscribe()
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("network namespace %s: %w", netns.Path(t.Netns), err)
	}
	return s, nil
}

// receiveBuffer holds the news of some thousand neighbors, in bytes.
const receiveBuffer = 4 << 20

// subscribe asks for news. A channel that the library closes means that some were
// lost; one that is read by a goroutine here only says that there were any.
func (s *space) subscribe() error {
	links, addrs, news := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate), make(chan netlink.RouteUpdate)
	quiet := func(error) {} // the channel is closed as well
	if err := netlink.NeighSubscribeWithOptions(s.neighbors, s.done, netlink.NeighSubscribeOptions{
		Namespace: &s.ns, ErrorCallback: quiet, ReceiveBufferSize: receiveBuffer, ReceiveBufferForceSize: true,
	}); err != nil {
		close(s.neighbors)
		return fmt.Errorf("neighbors: %w", err)
	}
	if err := netlink.LinkSubscribeWithOptions(links, s.done, netlink.LinkSubscribeOptions{Namespace: &s.ns, ErrorCallback: quiet}); err != nil {
		return fmt.Errorf("links: %w", err)
	}
	forward(s, links)
	if err := netlink.AddrSubscribeWithOptions(addrs, s.done, netlink.AddrSubscribeOptions{Namespace: &s.ns, ErrorCallback: quiet}); err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	forward(s, addrs)
	if err := netlink.RouteSubscribeWithOptions(news, s.done, netlink.RouteSubscribeOptions{
		Namespace: &s.ns, ErrorCallback: quiet, ReceiveBufferSize: receiveBuffer, ReceiveBufferForceSize: true,
	}); err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	forward(s, news)
	return nil
}

// forward notes that there were news. A lost message is as good as one: everything
// is read again.
func forward[T any](s *space, news <-chan T) {
	s.readers.Go(func() {
		for {
			_, ok := <-news
			select {
			case s.changes <- struct{}{}:
			default:
			}
			if !ok {
				return
			}
		}
	})
}

// close ends the subscriptions and waits for who reads them.
func (s *space) close() {
	close(s.done)
	go func() { // the library may be about to send
		for range s.neighbors {
			continue
		}
	}()
	s.readers.Wait()
	if s.h != nil {
		s.h.Close()
	}
	s.ns.Close()
}

// moved reports whether the namespace's name stands for another one now.
func (s *space) moved() bool {
	h, err := netns.Open(s.path)
	if err != nil {
		return true
	}
	defer h.Close()
	return !h.Equal(s.ns)
}
