//go:build linux

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// attach makes the pod's network namespace and has the plugin connect it, as a container
// runtime does: the plugin runs in the node's network namespace.
func (p *pod) attach(ctx context.Context) error {
	if p.object.Spec.HostNetwork {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ns, p.ips = p.k.Namespace, p.k.Addresses
		return nil
	}
	ns := p.k.PodNamespace()
	if _, err := netns.Create(ns); err != nil {
		return err
	}
	p.mu.Lock()
	p.ns, p.added = ns, true
	p.mu.Unlock()
	list, err := libcni.ConfListFromBytes(p.k.CNI)
	if err != nil {
		return err
	}
	var ips []netip.Addr
	// As long as kubelet lets a runtime take.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err = netns.Do(p.k.Namespace, func() error {
		result, err := p.plugins().AddNetworkList(ctx, list, p.runtime(ns))
		if err != nil {
			return err
		}
		// The cache keeps one JSON form; the newest is what this wants.
		answer, err := types100.NewResultFromResult(result)
		if err != nil {
			return err
		}
		for _, ip := range answer.IPs {
			a, ok := netip.AddrFromSlice(ip.Address.IP)
			if !ok {
				return fmt.Errorf("the plugin's answer has no address: %v", ip)
			}
			ips = append(ips, a.Unmap())
		}
		return nil
	})
	if err == nil && len(ips) == 0 {
		err = errors.New("the plugin's answer has no addresses")
	}
	if err != nil {
		return fmt.Errorf("CNI ADD: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ips = ips
	return nil
}

// detach calls CNI DEL. The caller holds mu.
func (p *pod) detach() error {
	list, err := libcni.ConfListFromBytes(p.k.CNI)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = netns.Do(p.k.Namespace, func() error { return p.plugins().DelNetworkList(ctx, list, p.runtime(p.ns)) })
	if err != nil {
		return fmt.Errorf("CNI DEL: %w", err)
	}
	return nil
}

func (p *pod) plugins() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(p.k.CNIPath, filepath.Join(p.k.Dir, "cni"), nil)
}

// runtime is what a container runtime tells plugins. Every namespace is a sandbox of its
// own, so the container's id has its name.
func (p *pod) runtime(ns string) *libcni.RuntimeConf {
	id := strings.ReplaceAll(string(p.object.UID), "-", "") + ns[strings.LastIndexByte(ns, '-')+1:]
	conf := &libcni.RuntimeConf{
		ContainerID: id, NetNS: netns.Path(ns), IfName: "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", p.object.Namespace}, {"K8S_POD_NAME", p.object.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", id}, {"K8S_POD_UID", string(p.object.UID)},
		},
		CapabilityArgs: map[string]any{},
	}
	if ports := p.hostPorts(); ports != nil {
		conf.CapabilityArgs["portMappings"] = ports
	}
	return conf
}

// hostPorts returns the hostPorts of the pod in the form of the capability portMappings.
func (p *pod) hostPorts() (list []json.RawMessage) {
	for _, c := range p.object.Spec.Containers {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			b, err := json.Marshal(map[string]any{
				"hostPort": port.HostPort, "containerPort": port.ContainerPort,
				"protocol": strings.ToLower(string(port.Protocol)), "hostIP": port.HostIP,
			})
			if err == nil { // numbers and texts always have a JSON form
				list = append(list, b)
			}
		}
	}
	return list
}
