//go:build linux

package node

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// probe asks the containers' readiness probes until ctx ends and tells when the answer of
// all together changes. Without probes a pod is ready at once. Until the first success it
// asks more often than a kubelet, so that tests need not wait.
func (p *pod) probe(ctx context.Context, ready chan<- bool) {
	was, failures := false, 0
	for {
		period, threshold := time.Hour, 1
		err := error(nil)
		for i := range p.object.Spec.Containers {
			c := &p.object.Spec.Containers[i]
			if c.ReadinessProbe == nil {
				continue
			}
			period = min(period, time.Duration(cmp.Or(c.ReadinessProbe.PeriodSeconds, 10))*time.Second)
			threshold = max(threshold, int(cmp.Or(c.ReadinessProbe.FailureThreshold, 3)))
			if err = p.ask(ctx, c); err != nil {
				p.log("readiness of %s: %v", c.Name, err)
				break
			}
		}
		if failures++; err == nil {
			failures = 0
		}
		is := err == nil || was && failures < threshold
		if is != was {
			select {
			case <-ctx.Done():
				return
			case ready <- is:
				was = is
			}
		}
		if !was {
			period = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
		}
	}
}

// ask makes one probe. Probes by the network come from the node, as a kubelet's do.
func (p *pod) ask(ctx context.Context, c *corev1.Container) error {
	probe := c.ReadinessProbe
	ctx, cancel := context.WithTimeout(ctx, time.Duration(cmp.Or(probe.TimeoutSeconds, 1))*time.Second)
	defer cancel()
	dial := func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = netns.Do(p.k.Namespace, func() error {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
	switch {
	case probe.TCPSocket != nil:
		conn, err := dial(ctx, "tcp", p.at(c, probe.TCPSocket.Port))
		if err != nil {
			return err
		}
		return conn.Close()
	case probe.HTTPGet != nil:
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.at(c, probe.HTTPGet.Port)+probe.HTTPGet.Path, nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode < 200 || answer.StatusCode >= 400 {
			return fmt.Errorf("%s", answer.Status)
		}
		return nil
	case probe.Exec != nil:
		cmd := exec.CommandContext(ctx, probe.Exec.Command[0], probe.Exec.Command[1:]...)
		if err := netns.Start(p.ns, cmd); err != nil {
			return err
		}
		return cmd.Wait()
	default:
		return nil
	}
}

// at returns where a probe's port is, by number or by the name of a port of the container.
func (p *pod) at(c *corev1.Container, port intstr.IntOrString) string {
	number := port.IntValue()
	for _, named := range c.Ports {
		if port.Type == intstr.String && named.Name == port.StrVal {
			number = int(named.ContainerPort)
		}
	}
	return net.JoinHostPort(p.ips[0].String(), fmt.Sprint(number))
}
