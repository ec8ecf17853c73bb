package routing

import (
	"fmt"
	"net/netip"
	"slices"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
)

// appProtocolH2C is KEP-3726's name for HTTP/2 without TLS.
const appProtocolH2C = "kubernetes.io/h2c"

// resolve returns the name of the backend that an Ingress means, NoEndpoints if
// there is none.
func (b *builder) resolve(ing *networking.Ingress, field string, to *networking.IngressBackend) string {
	name := nameOf(ing)
	if to.Service == nil {
		if to.Resource != nil {
			b.problem(name, "ResourceBackend", "%s.resource %s %s answers 503: backends that are not Services are not supported; name a Service",
				field, quote(to.Resource.Kind), quote(to.Resource.Name))
		} else {
			b.problem(name, "BackendMissing", "%s answers 503: it names no Service", field)
		}
		return NoEndpoints
	}
	service := types.NamespacedName{Namespace: ing.Namespace, Name: to.Service.Name}
	backend, fault := b.service(service, to.Service.Port)
	if fault.Reason != "" {
		b.problem(name, fault.Reason, "%s.service answers 503: %s", field, fault.Message)
	}
	return backend
}

// service returns the name of the backend for a Service's port, and makes it. Where
// there is none it returns NoEndpoints and a Problem with reason and message.
func (b *builder) service(name types.NamespacedName, port networking.ServiceBackendPort) (string, Problem) {
	if !objectName(name.Namespace) || !objectName(name.Name) {
		return NoEndpoints, Problem{Reason: "ServiceNotFound", Message: fmt.Sprintf("%s is no name of a Service", quote(name.Name))}
	}
	b.table.Services[name] = true
	service := b.objects.Service(name)
	switch {
	case service == nil:
		return NoEndpoints, Problem{Reason: "ServiceNotFound", Message: fmt.Sprintf("there is no Service %s in namespace %s", quote(name.Name), name.Namespace)}
	case service.Spec.Type == core.ServiceTypeExternalName:
		return NoEndpoints, Problem{Reason: "ExternalName", Message: fmt.Sprintf("Service %s is an ExternalName, which could lead anywhere; use a Service with endpoints", quote(name.Name))}
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p core.ServicePort) bool {
		if p.Protocol != "" && p.Protocol != core.ProtocolTCP {
			return false
		}
		if port.Name != "" {
			return p.Name == port.Name
		}
		return p.Port == port.Number
	})
	if i < 0 {
		what := fmt.Sprintf("number %d", port.Number)
		if port.Name != "" {
			what = "name " + quote(port.Name)
		}
		return NoEndpoints, Problem{Reason: "PortNotFound", Message: fmt.Sprintf("Service %s has no TCP port with %s", quote(name.Name), what)}
	}
	p := service.Spec.Ports[i]
	key := fmt.Sprintf("%s:%s:%d", name.Namespace, name.Name, p.Port)
	if b.backends[key] == nil {
		b.backends[key] = &Backend{
			Name: key, HTTP2: p.AppProtocol != nil && *p.AppProtocol == appProtocolH2C,
			Servers: servers(service, p.Name, b.objects.Slices(name)),
		}
	}
	return key, Problem{}
}

// servers are the usable endpoints of a Service's port: those that are ready, or
// without any those that still serve while they end (KEP-1669). A pod of a dual-stack
// Service is one server, at its address of the Service's first family.
func servers(service *core.Service, port string, all []*discovery.EndpointSlice) []Server {
	families := []discovery.AddressType{discovery.AddressTypeIPv4, discovery.AddressTypeIPv6}
	if f := service.Spec.IPFamilies; len(f) > 0 && f[0] == core.IPv6Protocol {
		slices.Reverse(families)
	}
	for _, family := range families {
		if found := serversOf(family, port, all); len(found) > 0 {
			return found
		}
	}
	return nil
}

func serversOf(family discovery.AddressType, port string, all []*discovery.EndpointSlice) []Server {
	var ready, ending []Server
	for _, slice := range all {
		if slice.AddressType != family {
			continue
		}
		number := slicePort(slice, port)
		if number == 0 {
			continue
		}
		for _, e := range slice.Endpoints {
			address, ok := podAddress(&e)
			if !ok {
				continue
			}
			// What is not said is true, but for the end (discovery.k8s.io/v1 EndpointConditions).
			isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
			serves := e.Conditions.Serving == nil || *e.Conditions.Serving
			s := Server{Address: netip.AddrPortFrom(address, number)}
			switch {
			case isReady:
				ready = append(ready, s)
			case serves && e.Conditions.Terminating != nil && *e.Conditions.Terminating:
				ending = append(ending, s)
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.SortFunc(ready, func(a, b Server) int { return a.Address.Compare(b.Address) })
	return slices.Compact(ready) // an endpoint may be in two slices while it moves
}

func slicePort(slice *discovery.EndpointSlice, name string) uint16 {
	for _, p := range slice.Ports {
		have := ""
		if p.Name != nil {
			have = *p.Name
		}
		tcp := p.Protocol == nil || *p.Protocol == core.ProtocolTCP
		if have == name && tcp && p.Port != nil && *p.Port > 0 && *p.Port < 1<<16 {
			return uint16(*p.Port)
		}
	}
	return 0
}

// podAddress is an endpoint's address. Addresses of the proxy itself and of its link
// are refused: whoever may write EndpointSlices must not reach the proxy's own sockets
// or a cloud's metadata service through it.
func podAddress(e *discovery.Endpoint) (netip.Addr, bool) {
	if len(e.Addresses) == 0 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(e.Addresses[0])
	a = a.Unmap()
	if err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return netip.Addr{}, false
	}
	return a, true
}
