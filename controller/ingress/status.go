package ingress

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Publish says which addresses stand in the status of Ingresses. With more than one
// source they are put together; with none the status is left alone.
type Publish struct {
	Addresses []string              // IP addresses or host names
	Service   *types.NamespacedName // its load balancer's and external addresses
	Nodes     labels.Selector       // the Nodes' external addresses, else their internal ones; nil: none
}

func (p Publish) none() bool { return len(p.Addresses) == 0 && p.Service == nil && p.Nodes == nil }

// status writes status.loadBalancer.ingress. It writes only what differs, and all
// replicas write the same, so they do not fight; one whose options differ is held to a
// write per Ingress and interval.
type status struct {
	client  kubernetes.Interface
	from    Publish
	watch   *watch
	log     *slog.Logger
	kick    chan struct{}
	names   atomic.Pointer[[]types.NamespacedName]
	written map[types.NamespacedName]time.Time // belongs to run
	writes  atomic.Int64
}

// Timing of status writes.
const (
	statusInterval = 10 * time.Second // shortest time between two writes to one Ingress
	statusTimeout  = 10 * time.Second
)

func newStatus(client kubernetes.Interface, from Publish, w *watch, log *slog.Logger) *status {
	return &status{client: client, from: from, watch: w, log: log, kick: make(chan struct{}, 1), written: make(map[types.NamespacedName]time.Time)}
}

// publish asks for the status of these Ingresses to be right, soon.
func (s *status) publish(names []types.NamespacedName) {
	s.names.Store(&names)
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// run writes until ctx ends.
func (s *status) run(ctx context.Context) {
	if s.from.none() {
		return
	}
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-again.C:
		}
		if !s.writeAll(ctx) {
			again.Reset(statusInterval)
		}
	}
}

// writeAll makes every status right and returns whether it could.
func (s *status) writeAll(ctx context.Context) (done bool) {
	done = true
	want := s.addresses()
	names := *s.names.Load()
	for _, name := range names {
		ing := s.watch.ingress(name)
		if ing == nil || sameAddresses(ing.Status.LoadBalancer.Ingress, want) {
			continue
		}
		if time.Since(s.written[name]) < statusInterval {
			done = false
			continue
		}
		s.written[name] = time.Now()
		if err := s.write(ctx, name, want); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			s.log.Warn("the status of an Ingress could not be written; allow patch of ingresses/status", "ingress", name.String(), "error", err)
			done = false
		}
	}
	for name := range s.written {
		if _, ours := slices.BinarySearchFunc(names, name, func(a, b types.NamespacedName) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		}); !ours {
			delete(s.written, name)
		}
	}
	return done
}

// write patches without a resource version: replicas that write the same at the same
// time do not refuse each other.
func (s *status) write(ctx context.Context, name types.NamespacedName, want []networking.IngressLoadBalancerIngress) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"loadBalancer": map[string]any{"ingress": want}}})
	if err != nil {
		return err
	}
	_, err = s.client.NetworkingV1().Ingresses(name.Namespace).Patch(ctx, name.Name, types.MergePatchType, patch, meta.PatchOptions{}, "status")
	s.writes.Add(1)
	return err
}

// addresses are what the status says, sorted: IPv4, IPv6, names.
func (s *status) addresses() []networking.IngressLoadBalancerIngress {
	all := slices.Clone(s.from.Addresses)
	if s.from.Service != nil {
		if service := s.watch.service(*s.from.Service); service != nil {
			all = append(all, service.Spec.ExternalIPs...)
			for _, in := range service.Status.LoadBalancer.Ingress {
				all = append(all, in.IP, in.Hostname)
			}
		}
	}
	for _, node := range s.watch.selected() {
		all = append(all, nodeAddresses(node)...)
	}
	slices.SortFunc(all, func(a, b string) int {
		x, errX := netip.ParseAddr(a)
		y, errY := netip.ParseAddr(b)
		if errX != nil || errY != nil {
			return cmp.Or(cmp.Compare(bit(errX != nil), bit(errY != nil)), cmp.Compare(a, b))
		}
		return x.Compare(y)
	})
	out := []networking.IngressLoadBalancerIngress{}
	for _, text := range slices.Compact(all) {
		if text == "" {
			continue
		}
		if _, err := netip.ParseAddr(text); err == nil {
			out = append(out, networking.IngressLoadBalancerIngress{IP: text})
		} else {
			out = append(out, networking.IngressLoadBalancerIngress{Hostname: text})
		}
	}
	return out
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// nodeAddresses are a Node's external addresses, else its internal ones.
func nodeAddresses(n *core.Node) []string {
	for _, kind := range [...]core.NodeAddressType{core.NodeExternalIP, core.NodeInternalIP} {
		var found []string
		for _, a := range n.Status.Addresses {
			if a.Type == kind {
				found = append(found, a.Address)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

func sameAddresses(have, want []networking.IngressLoadBalancerIngress) bool {
	return slices.EqualFunc(have, want, func(a, b networking.IngressLoadBalancerIngress) bool { return a.IP == b.IP && a.Hostname == b.Hostname })
}
