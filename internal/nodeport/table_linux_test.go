package nodeport_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/nodeport"
)

// kernel is a namespace, asked by nft(8).
type kernel struct {
	t    *testing.T
	name string
}

func newKernel(t *testing.T) *kernel {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIP-PRIVILEGED: network namespaces need root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIP-TOOL: nft is not installed (make deps)")
	}
	k := &kernel{t: t, name: netns.Name("vrtnp", strings.ToLower(t.Name()))}
	if _, err := netns.Create(k.name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(k.name); err != nil {
			t.Error(err)
		}
	})
	return k
}

func (k *kernel) path() string { return netns.Path(k.name) }

// ports returns what the kernel's maps have, in order; nil where there is no table. The
// text is read: nft 1.0.6 writes no good JSON of a table with an owner.
func (k *kernel) ports() (list []nodeport.Port) {
	k.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", k.name, "nft", "list", "table", "inet", nodeport.TableName).Output()
	if err != nil {
		return nil
	}
	list = []nodeport.Port{}
	for _, e := range regexp.MustCompile(`([0-9a-f.:]+) \. (tcp|udp|sctp) \. (\d+) : ([0-9a-f.:]+)`).FindAllStringSubmatch(string(out), -1) {
		port, err := strconv.Atoi(e[3])
		if err != nil {
			k.t.Fatal(err)
		}
		list = append(list, nodeport.Port{
			Address: netip.MustParseAddr(e[1]), StandIn: netip.MustParseAddr(e[4]), Port: uint16(port),
			Protocol: map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}[e[2]],
		})
	}
	slices.SortFunc(list, nodeport.Port.Compare)
	return list
}

// some are n ports of each family and of protocols in turn.
func some(n int) (list []nodeport.Port) {
	for _, a := range [][2]string{{"192.0.2.10", "169.254.118.1"}, {"2001:db8::10", "fd76:726f:7574:6572::1"}} {
		for i := range n {
			list = append(list, nodeport.Port{
				Address: netip.MustParseAddr(a[0]), StandIn: netip.MustParseAddr(a[1]), Protocol: [3]uint8{6, 17, 132}[i%3], Port: uint16(30000 + i/3),
			})
		}
	}
	slices.SortFunc(list, nodeport.Port.Compare)
	return list
}

// The kernel's maps follow the ports, many at once and one by one, in the rule's namespace,
// and are absent while there are none.
func TestTable(t *testing.T) {
	k := newKernel(t)
	table := nodeport.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	check := func(what string, want []nodeport.Port) {
		t.Helper()
		table.Set(k.path(), want)
		if got := k.ports(); !slices.Equal(got, want) {
			t.Fatalf("%s: the kernel has %d ports, want %d", what, len(got), len(want))
		}
	}
	check("none", nil)
	all := some(6000)
	check("12,000", all)
	check("one less", slices.Delete(slices.Clone(all), 4000, 4001))
	check("and again", all)
	moved := slices.Clone(all)
	moved[0].StandIn = netip.MustParseAddr("169.254.118.2")
	check("another address stands in", moved)
	check("few", all[:3])
	table.Set(k.path(), nil)
	if got := k.ports(); got != nil {
		t.Errorf("there are no ports, and the table has %v", got)
	}
	check("back", all[:10])
	if err := table.Close(); err != nil {
		t.Error(err)
	}
	if got := k.ports(); got != nil {
		t.Errorf("closed, and the table has %v", got)
	}
}

// What cannot be done at first is done when it can: the namespace comes later, goes and
// comes again, another process holds the table.
func TestTableComesLater(t *testing.T) {
	k := newKernel(t)
	if err := netns.Delete(k.name); err != nil {
		t.Fatal(err)
	}
	table := nodeport.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- table.Run(ctx) }()
	want := some(5)
	table.Set(k.path(), want)
	other := nodeport.New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	for round := range 2 {
		if _, err := netns.Create(k.name); err != nil {
			t.Fatal(err)
		}
		until(t, fmt.Sprintf("round %d", round), func() bool { return slices.Equal(k.ports(), want) })
		if round == 0 {
			if err := netns.Delete(k.name); err != nil {
				t.Fatal(err)
			}
		}
	}
	other.Set(k.path(), want[:2])
	if got := k.ports(); !slices.Equal(got, want) {
		t.Errorf("another process has taken the table: %v", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := table.Close(); err != nil {
		t.Error(err)
	}
	other.Set(k.path(), want[:2])
	until(t, "the other one has it", func() bool { return slices.Equal(k.ports(), want[:2]) })
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}
