//go:build linux && kube

package kube_test

import (
	"flag"
	"testing"
)

var update = flag.Bool("update", false, "write what TestAgreement finds to docs/KUBE-PROXY-DIFFERENCES.md")

// TestAgreement makes the same calls with kube-proxy and with ours.
//
// kube-proxy is judged first: in every cell of the matrix it does what Kubernetes' documents
// ask (expect), or the test ground is wrong. Where ours does something else, that is in
// docs/KUBE-PROXY-DIFFERENCES.md with its reason.
func TestAgreement(t *testing.T) {
	t.Parallel()
	answers := map[string]map[cell]string{}
	for _, name := range []string{"kube-proxy", "vrouter"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, newCluster(t, dataplanes[name]))
			answers[name] = l.run()
			if name != "kube-proxy" {
				return
			}
			for _, c := range cells() {
				if got, want := answers[name][c], expect(c); got != want {
					t.Errorf("%v: %s; want %s", c, got, want)
				}
			}
		})
	}
	if t.Failed() || len(answers) != 2 {
		return
	}
	var found []difference
	for _, c := range cells() {
		if ours, theirs := answers["vrouter"][c], answers["kube-proxy"][c]; ours != theirs {
			found = append(found, difference{c, ours, theirs})
		}
	}
	t.Logf("%d cells, %d differ", len(cells()), len(found))
	judge(t, found)
}
