package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/naming"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// conf is the network configuration that comes on standard input.
type conf struct {
	types.PluginConf
	// Agent is the socket of the node's agent. Default: client.DefaultAddress.
	Agent string `json:"agent"`
	// VirtualNetwork that containers are put into by the plugin's own word, without
	// Kubernetes. Default: a controller tells the agent of each pod.
	VirtualNetwork string `json:"virtualNetwork"`
	// MTU of the containers' devices in bytes. Default: the interface's.
	MTU uint32 `json:"mtu"`
	// TimeoutSeconds is how long ADD waits for the pod's interface. Default: 20.
	TimeoutSeconds uint32 `json:"timeoutSeconds"`
	// RuntimeConfig holds what the runtime passes for the declared capabilities.
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
		Bandwidth    bandwidth     `json:"bandwidth"`
		IPs          []string      `json:"ips"`
		MAC          string        `json:"mac"`
	} `json:"runtimeConfig"`
}

// portMapping is a host port, as the capability portMappings has it.
type portMapping struct {
	HostPort      int64  `json:"hostPort"`
	ContainerPort int64  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// bandwidth is what the capability of that name asks for.
type bandwidth struct {
	IngressRate uint64 `json:"ingressRate"`
	EgressRate  uint64 `json:"egressRate"`
}

// defaultTimeout is that of the agent's own waiting and a second for the rest.
const defaultTimeout = 20 * time.Second

// parse reads the configuration.
func parse(data []byte) (*conf, error) {
	c := &conf{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the network configuration cannot be read", err.Error())
	}
	return c, nil
}

// request reads the configuration and says which container a call is about.
func request(a *skel.CmdArgs) (*conf, container, error) {
	c, err := parse(a.StdinData)
	if err != nil {
		return nil, container{}, err
	}
	who, err := c.identify(a)
	return c, who, err
}

// dial returns a client of the agent.
func (c *conf) dial(timeout time.Duration) (*client.Client, error) {
	api, err := client.New(client.Config{Address: c.Agent, Timeout: timeout})
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "agent: "+err.Error(), "give the path of the agent's socket, "+client.DefaultAddress+" by default")
	}
	return api, nil
}

func (c *conf) timeout() time.Duration {
	if c.TimeoutSeconds == 0 {
		return defaultTimeout
	}
	return time.Duration(c.TimeoutSeconds) * time.Second
}

// container is who the runtime speaks of.
type container struct {
	name string // of its interface
	uid  string // of its pod; "" where the runtime does not say
	args map[string]string
}

// identify tells which interface a container is for: that of its pod, or one of its own
// where the configuration names a network.
func (c *conf) identify(a *skel.CmdArgs) (container, error) {
	who := container{args: map[string]string{}}
	for pair := range strings.SplitSeq(a.Args, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			who.args[key] = value
		}
	}
	if c.VirtualNetwork != "" {
		parts := []string{c.Name, a.ContainerID}
		if a.IfName != "eth0" {
			parts = append(parts, a.IfName)
		}
		who.name = naming.Join(parts...)
		return who, nil
	}
	namespace, pod := who.args["K8S_POD_NAMESPACE"], who.args["K8S_POD_NAME"]
	if namespace == "" || pod == "" {
		return who, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS has no K8S_POD_NAMESPACE and K8S_POD_NAME, so nobody knows which interface the container is for",
			"the runtime of a Kubernetes node gives them; elsewhere name a network in the configuration: \"virtualNetwork\": \"NAME\"")
	}
	who.name, who.uid = naming.Join(namespace, pod), who.args["K8S_POD_UID"]
	return who, nil
}

// request is what the agent is asked for.
func (c *conf) request(a *skel.CmdArgs, who container) (*pb.AttachRequest, error) {
	if b := c.RuntimeConfig.Bandwidth; b.IngressRate != 0 || b.EgressRate != 0 {
		return nil, types.NewError(types.ErrUnsupportedField, fmt.Sprintf("runtimeConfig.bandwidth is not supported: ingressRate %d, egressRate %d", b.IngressRate, b.EgressRate),
			"leave the capability bandwidth out of the configuration, or the annotations out of the pod")
	}
	r := &pb.AttachRequest{
		Name: who.name, Uid: who.uid, ContainerId: a.ContainerID, Netns: a.Netns, GuestName: a.IfName, Mtu: c.MTU,
		MacAddress: c.RuntimeConfig.MAC, Configuration: c.Name, VirtualNetwork: c.VirtualNetwork,
	}
	ips := c.RuntimeConfig.IPs
	if ip := who.args["IP"]; len(ips) == 0 && ip != "" {
		ips = []string{ip}
	}
	if r.MacAddress == "" {
		r.MacAddress = who.args["MAC"]
	}
	for _, s := range ips {
		text, _, _ := strings.Cut(s, "/")
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return nil, types.NewError(types.ErrUnsupportedField, fmt.Sprintf("runtimeConfig.ips: %q is no address", s), "give addresses such as 10.244.0.7 or fd00:244::7")
		}
		r.Addresses = append(r.Addresses, ip.Unmap().String())
	}
	return r, c.hostPorts(r)
}

// hostPorts adds the host ports to a request.
func (c *conf) hostPorts(r *pb.AttachRequest) error {
	for i, m := range c.RuntimeConfig.PortMappings {
		bad := func(what string) error {
			return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("runtimeConfig.portMappings[%d]: %s", i, what), "")
		}
		if m.HostPort == 0 {
			continue // a port that the container has and the host has not
		}
		protocol, ok := pb.Protocol_Value_value[strings.ToUpper(m.Protocol)]
		if m.Protocol == "" {
			protocol, ok = int32(pb.Protocol_TCP), true
		}
		switch {
		case m.HostPort < 0 || m.HostPort > 65535:
			return bad(fmt.Sprintf("hostPort %d is no port", m.HostPort))
		case m.ContainerPort < 0 || m.ContainerPort > 65535:
			return bad(fmt.Sprintf("containerPort %d is no port", m.ContainerPort))
		case !ok:
			return bad(fmt.Sprintf("protocol %q is not tcp, udp or sctp", m.Protocol))
		}
		r.HostPorts = append(r.HostPorts, &pb.HostPort{
			HostPort: uint32(m.HostPort), ContainerPort: uint32(m.ContainerPort), Protocol: pb.Protocol_Value(protocol), HostIp: m.HostIP,
		})
	}
	return nil
}
