package forwarder

import "testing"

func TestRoadSmoke(t *testing.T) {
	for _, v := range []int{4, 6} {
		r := newRoad(t, roadConfig{})
		parts := cutDatagram(part{version: v, src: 1, dst: 2, proto: 17, id: 77, data: udpDatagram(v, 1, 2, 4000)}, 1400)
		for _, q := range []int{1, 0, 2} {
			r.inject(1, parts[q].frame())
		}
		r.run()
		out := r.take(2)
		t.Log(len(out), r.f.PortCounters(1))
		r.conserve()
	}
}
