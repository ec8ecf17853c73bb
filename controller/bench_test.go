package controller

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/vrouter-go/vrouter/controller/model"
	"github.com/vrouter-go/vrouter/controller/network"
)

// fill makes a cluster of services with endpoints each, spread over 100 nodes.
func fill(b *testing.B, c *compiler, services, endpoints int) {
	b.Helper()
	for i := range 100 {
		c.view.Apply(event(b, node(fmt.Sprintf("n%d", i+1), "za", []string{fmt.Sprintf("10.%d.0.0/16", 100+i)}, fmt.Sprintf("192.0.2.%d", i+1))))
	}
	for i := range services {
		s := svc("default", fmt.Sprintf("svc-%05d", i), fmt.Sprintf("10.96.%d.%d", i/250, i%250+1))
		c.view.Apply(event(b, s))
		var pods []*corev1.Pod
		for k := range endpoints {
			n := i*endpoints + k
			p := pod("default", fmt.Sprintf("svc-%05d-%d", i, k), fmt.Sprintf("n%d", n%100+1), fmt.Sprintf("10.%d.%d.%d", 100+n%100, n/100/250, n/100%250+1))
			c.view.Apply(event(b, p))
			pods = append(pods, p)
		}
		c.view.Apply(event(b, slice(s, s.Name+"-x", true, pods...)))
	}
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkFull compiles all of a cluster of 10,000 services with 10 endpoints each.
func BenchmarkFull(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		before := heap()
		c := newCompiler(&Config{Node: "n1", Network: network.Options{Uplink: "eth0"}})
		fill(b, c, 10000, 10)
		view := heap()
		b.StartTimer()
		change := c.compile()
		b.StopTimer()
		b.ReportMetric((view-before)/1e6, "view-MB")
		b.ReportMetric((heap()-view)/1e6, "desired-MB")
		runtime.KeepAlive(c)
		b.ReportMetric(float64(len(change.Upserts)), "resources")
		b.StartTimer()
	}
}

// BenchmarkEndpoint is one endpoint that changes in that cluster.
func BenchmarkEndpoint(b *testing.B) {
	c := newCompiler(&Config{Node: "n1", Network: network.Options{Uplink: "eth0"}})
	fill(b, c, 10000, 10)
	c.compile()
	name := model.Name{Namespace: "default", Name: "svc-05000-x"}
	s := c.view.Slices(model.Name{Namespace: "default", Name: "svc-05000"})[0]
	ready := false
	for b.Loop() {
		now := s.DeepCopy()
		now.Endpoints[3].Conditions = discoveryv1.EndpointConditions{Ready: &ready}
		now.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Format(time.RFC3339Nano)}
		c.view.Apply(model.Event{Kind: model.SliceKind, Name: name, Object: now})
		if change := c.compile(); len(change.Upserts) != 2 {
			b.Fatal(names(change))
		}
		c.view.Apply(model.Event{Kind: model.SliceKind, Name: name, Object: s})
		c.compile()
	}
}
