//go:build linux && kube

package kube_test

import (
	"testing"

	"github.com/vrouter-go/vrouter/test/kube/cluster"
)

// TestKubeProxy judges the judge: kube-proxy does in every cell of the matrix what
// Kubernetes' documents ask (expect), or the test ground is wrong.
func TestKubeProxy(t *testing.T) {
	t.Parallel()
	l := newLab(t, newCluster(t, cluster.Options{Dataplane: cluster.Kernel, Proxy: "nftables"}))
	answers := l.run()
	for _, c := range cells() {
		if got, want := answers[c], expect(c); got != want {
			t.Errorf("%v: %s; want %s", c, got, want)
		}
	}
	t.Logf("%d cells", len(answers))
}
