package metrics

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vrouter-go/vrouter/internal/nat"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a source with one of everything.
type node struct{}

func (node) Status() *pb.GetStatusResponse {
	return &pb.GetStatusResponse{
		Ports:      []*pb.PortStatus{{Name: "web-1", State: pb.PortStatus_UP, Received: &pb.PortCounters{Packets: 7, Bytes: 700}}},
		Resources:  []*pb.ResourceCount{{Kind: "VirtualNetwork", Count: 2}},
		Components: []*pb.ComponentStatus{{Name: "ports", Health: pb.Health_HEALTHY}},
		Uplink:     &pb.UplinkStatus{Up: true},
		Peers:      []*pb.PeerStatus{{State: pb.PeerStatus_UP}, {State: pb.PeerStatus_DOWN}, {State: pb.PeerStatus_UP}},
		FlowTable:  &pb.FlowTableStatus{Sessions: 3, Capacity: 10},
	}
}

func (node) PortUsage() []nat.Usage {
	return []nat.Usage{
		{Address: [16]byte{10: 0xff, 11: 0xff, 12: 192}, Class: nat.UDP, Size: 100, Used: 3, Held: 2},
		{Address: [16]byte{10: 0xff, 11: 0xff, 12: 198}, Class: nat.UDP, Used: 1}, // an earlier address of the node
		{Address: [16]byte{0: 0x20}, Class: nat.ICMP, Size: 10},
	}
}

func (node) Drops() []*pb.DropCounter {
	return []*pb.DropCounter{
		{Interface: "web-1", Reason: "NO_ROUTE", Packets: 5},
		{Interface: "", Reason: "NO_ROUTE", Packets: 1}, {Interface: "", Reason: "NO_ROUTE", Packets: 2}, // two ports that are gone
	}
}

// TestScrape reads the metrics over a Unix socket, and holds that each is
// described in docs/METRICS.md and has no label that follows the traffic.
func TestScrape(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, socket, "", node{}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	var text string
	for deadline := time.Now().Add(10 * time.Second); text == ""; {
		resp, err := (&http.Client{Transport: transport}).Get("http://vrouter/metrics")
		if err != nil {
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			continue
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		text = string(b)
	}
	for _, want := range []string{
		`vrouter_port_packets_total{direction="received",interface="web-1"} 7`,
		`vrouter_drops_total{interface="web-1",reason="NO_ROUTE"} 5`,
		`vrouter_drops_total{interface="",reason="NO_ROUTE"} 3`,
		`vrouter_snat_ports{family="IPv4",protocol="UDP",state="used"} 4`, `vrouter_snat_ports{family="IPv4",protocol="UDP",state="free"} 95`,
		`vrouter_snat_ports{family="IPv6",protocol="ICMP",state="free"} 10`,
		`vrouter_sessions 3`, `vrouter_component_healthy{component="ports"} 1`, `go_goroutines`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	doc, err := os.ReadFile("../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "# TYPE vrouter_"); ok {
			name, _, _ = strings.Cut(name, " ")
			if !strings.Contains(string(doc), "`vrouter_"+name+"`") {
				t.Errorf("vrouter_%s is not in docs/METRICS.md", name)
			}
		}
	}
}
