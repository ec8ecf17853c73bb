//go:build linux

package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/test/kube/kubeproxy"
	"github.com/vrouter-go/vrouter/test/kube/process"
)

// kernelNode is the apiserver's namespace and a node whose kernel forwards between the
// same workloads, over veth pairs, for kube-proxy to translate.
func kernelNode() (*world, error) {
	w, err := newSpaces("p", "plane", "node", "client", "a", "b")
	if err != nil {
		return nil, err
	}
	var script strings.Builder
	fmt.Fprintf(&script, `sysctl -qw net.ipv4.ip_forward=1
ip link add api type veth peer name eth0 netns %[1]s
ip addr add %[2]s/24 dev api; ip link set api up
ip -n %[1]s addr add 192.0.2.1/24 dev eth0; ip -n %[1]s link set eth0 up
`, w.space("plane"), nodeIP)
	for i, p := range []struct{ role, address string }{{"client", podClient}, {"a", podA}, {"b", podB}} {
		// What a guest sends goes to the vRouter's address, which the node's devices have here.
		fmt.Fprintf(&script, `ip link add v-%[1]s address 00:00:5e:00:01:00 type veth peer name eth0 address 02:00:00:00:00:0%[2]d netns %[3]s
ip link set v-%[1]s up; ip -n %[3]s link set eth0 up
ip route add %[4]s dev v-%[1]s; ip neigh replace %[4]s lladdr 02:00:00:00:00:0%[2]d dev v-%[1]s nud permanent
`, p.role, i+1, w.space(p.role), p.address)
	}
	out, err := exec.Command("ip", "netns", "exec", w.space("node"), "sh", "-ec", script.String()).CombinedOutput()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the kernel's node: %w\n%s", err, out), w.close())
	}
	return w, nil
}

// clusterProxy measures kube-proxy in its mode nftables, with its own settings: from its
// start to the first packet that it has translated, for its first transaction has all.
func (b *bench) clusterProxy(ctx context.Context, s *apiserver, w *world) (_ *clusterOutcome, err error) {
	if err := w.openAt(podClient, podA, podB); err != nil {
		return nil, err
	}
	kubeconfig, err := s.plane.Kubeconfig(kubeproxy.User)
	if err != nil {
		return nil, err
	}
	var p *process.Process
	defer func() {
		if p != nil {
			err = errors.Join(err, p.Stop(syscall.SIGTERM, patience))
		}
	}()
	o := &clusterOutcome{detail: map[string]float64{}}
	for range min(b.restarts, 2) {
		if p != nil {
			if err := errors.Join(p.Stop(syscall.SIGTERM, patience), w.forget()); err != nil {
				return nil, err
			}
		}
		x := w.begin(source{rate: 1000, ports: 60_000, to: s.address, nice: -10})
		began := w.a.arm()
		p, err = kubeproxy.Start(ctx, kubeproxy.Options{
			Namespace: w.space("node"), Dir: b.dir, Binaries: b.KubeBinaries, Kubeconfig: kubeconfig, Node: benchNode, Mode: "nftables", Pods: "10.128.0.0/9",
		})
		if err != nil {
			return nil, errors.Join(err, x.end())
		}
		select {
		case at := <-w.a.alarm:
			o.cold = append(o.cold, float64(at-began)/1e6)
			o.detail["cold-cpu-s"] = usage(p.PID()).cpu
		case <-time.After(10 * patience): // it takes a minute and more
			return nil, errors.Join(fmt.Errorf("no packet was translated\n%s", p.Tail()), x.end())
		}
		if err := x.end(); err != nil {
			return nil, err
		}
	}
	return o, b.moveEndpoints(ctx, s, w, o, map[string]int{"all": p.PID()})
}

// forget removes kube-proxy's rules and the connections that the kernel knows.
func (w *world) forget() error {
	return netns.Do(w.space("node"), func() error {
		for _, family := range []string{"ip", "ip6"} {
			if out, err := exec.Command("nft", "delete", "table", family, "kube-proxy").CombinedOutput(); err != nil {
				return fmt.Errorf("nft: %w\n%s", err, out)
			}
		}
		return netlink.ConntrackTableFlush(netlink.ConntrackTable)
	})
}

// consumption is what a process has used and holds.
type consumption struct{ cpu, resident, peak float64 } // seconds; MB

// usage reads what a process and its children that have ended have used. One that is
// gone has nothing.
func usage(pid int) (c consumption) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return c
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // proc_pid_stat(5), from the third on
	for _, text := range fields[11:15] {
		ticks, _ := strconv.ParseFloat(text, 64) // the kernel writes numbers
		c.cpu += ticks / 100
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return c
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64) // of these two lines it is a number
		switch f[0] {
		case "VmRSS:":
			c.resident = kib * 1024 / 1e6
		case "VmHWM:":
			c.peak = kib * 1024 / 1e6
		}
	}
	return c
}

// isReady asks a vrkube whether it is ready.
func isReady(socket string) bool {
	c := http.Client{Transport: unixTransport(socket), Timeout: time.Second}
	answer, err := c.Get("http://vrkube/readyz")
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// bucketQuantile is the upper end of the bucket of a histogram that holds a quantile.
func bucketQuantile(metrics map[string]float64, name string, q float64) float64 {
	type bucket struct{ most, count float64 }
	var list []bucket
	for key, count := range metrics {
		text, ok := strings.CutPrefix(key, name+`_bucket{le="`)
		if most, err := strconv.ParseFloat(strings.TrimSuffix(text, `"}`), 64); ok && err == nil {
			list = append(list, bucket{most, count})
		}
	}
	slices.SortFunc(list, func(a, b bucket) int {
		if a.most < b.most {
			return -1
		}
		return 1
	})
	for _, x := range list {
		if x.count >= q*metrics[name+"_count"] {
			return x.most
		}
	}
	return 0
}
