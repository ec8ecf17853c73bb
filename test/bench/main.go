// Command bench measures a vRouter beside its peers: the same load, the same
// machine, one run, in network namespaces. It needs root. `make bench` runs it;
// --help tells what else it can do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vrouter-go/vrouter/test/bench/load"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "load" { // started by peer to make traffic
		exit(load.Main(os.Args[2:]))
	}
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err = run(ctx, o)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// options are the command line.
type options struct {
	quick   bool
	only    []string // workloads to run, each with its suite's name
	peers   []string
	reps    int
	length  time.Duration
	half    float64
	out     string
	html    string
	docs    string
	vrouter string  // the binary of "ours"
	builds  []build // further binaries to compare it with
	memory  bool    // run `vrouter bench` as well
	control bool    // and the control plane's part
	kube    bool    // of that, what concerns Kubernetes
	cluster bool    // of that, what is measured on a real apiserver
	// kubeBinaries is the directory of kube-apiserver and kube-proxy; "": there is none.
	kubeBinaries string
}

// build is another binary of the vRouter, a peer by its name.
type build struct{ name, path string }

const usage = `usage: go run ./test/bench [flags]

Measures bin/vrouter: in memory (vrouter bench), beside its peers in network
namespaces, and its control plane. Needs root and a quiet machine. Each round runs
every workload against every peer, one after the other, so that a drift of the
machine touches all of them alike.

  go run ./test/bench --quick
  go run ./test/bench --only tcp-bulk-1,rr-idle --peers kernel --reps 5 --seconds 3
  go run ./test/bench --only udp-small --peers base --vrouter base=/tmp/vrouter-before

`

func parseOptions(args []string) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		f.PrintDefaults()
		fmt.Fprintln(os.Stderr, "\nworkloads:")
		for _, s := range suites() {
			for _, w := range s.workloads {
				fmt.Fprintf(os.Stderr, "  %-24s %s\n", strings.TrimPrefix(s.full(w), "e2e/"), w.what)
			}
		}
	}
	f.BoolVar(&o.quick, "quick", false, "the most important figures, in less than three minutes")
	only := f.String("only", "", "memory, control, kube, kube/cluster, e2e, overlay, or workloads by name, with commas between (default: all)")
	peers := f.String("peers", "", "peers to compare with: kernel, ovs, tap-loop, vxlan and tunnel-loop (between two nodes: ours by VXLAN, a bare loop) and names given by --vrouter (default: all; \"none\": ours alone)")
	f.IntVar(&o.reps, "reps", 0, "rounds (default: 5; with --quick 2)")
	seconds := f.Float64("seconds", 0, "length of each measurement (default: 5; with --quick 1)")
	f.Float64Var(&o.half, "half-load", 0, "packets/s beside rr-loaded (default: half of what the slowest peer delivered in udp-small)")
	f.StringVar(&o.kubeBinaries, "kube-binaries", "", "`DIRECTORY` of kube-apiserver and kube-proxy, as test/kube/binaries.sh prints it (default: what that has built; without any, vrkube is measured without a cluster)")
	f.StringVar(&o.out, "out", "", "write the figures to this file as JSON")
	f.StringVar(&o.html, "html", "", "write a page with plots to this file")
	f.StringVar(&o.docs, "docs", "", "put the table into this Markdown file, between its marks")
	f.Func("vrouter", "`PATH` of the binary to measure (default bin/vrouter), or NAME=PATH of another build, a peer by that name; may be repeated", o.addBuild)
	o.vrouter = "bin/vrouter"
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("what is %q? (--help)", f.Arg(0))
	}
	if o.kubeBinaries == "" {
		o.kubeBinaries = builtKube()
	}
	if o.reps == 0 {
		o.reps = 5
		if o.quick {
			o.reps = 2
		}
	}
	if *seconds == 0 {
		*seconds = 5
		if o.quick {
			*seconds = 1
		}
	}
	o.length = time.Duration(*seconds * float64(time.Second))
	return o, o.choose(*only, *peers)
}

// builtKube is where test/kube/binaries.sh has put Kubernetes' newest programs; empty:
// nowhere.
func builtKube() string {
	dir := os.Getenv("VROUTER_KUBE_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(cache, "vrouter-kube")
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "kube-apiserver"))
	if err != nil || len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

// addBuild takes one --vrouter.
func (o *options) addBuild(value string) error {
	name, path, named := strings.Cut(value, "=")
	if !named {
		o.vrouter = value
		return nil
	}
	if name == "" || strings.ContainsAny(name, "/- ") || slices.Contains(peerNames(), name) || name == ours {
		return fmt.Errorf("%q: choose another name without blanks, '/' and '-'", name)
	}
	o.builds = append(o.builds, build{name, path})
	return nil
}

// choose takes the names of what to measure and of peers.
func (o *options) choose(only, peers string) error {
	if only == "" {
		only = "memory,e2e,overlay,control,kube"
	}
	for word := range strings.SplitSeq(only, ",") {
		switch word {
		case "memory":
			o.memory = true
		case "control":
			o.control = true
		case "kube":
			o.kube = true
		case "kube/cluster":
			o.cluster = true
		default:
			found := o.named(word)
			if len(found) == 0 {
				return fmt.Errorf("--only: what is %q? memory, control, kube, kube/cluster, e2e, overlay or a workload (--help)", word)
			}
			o.only = append(o.only, found...)
		}
	}
	all := peerNames()
	for _, b := range o.builds {
		all = append(all, b.name)
	}
	switch peers {
	case "":
		o.peers = all
	case "none":
	default:
		o.peers = slices.DeleteFunc(strings.Split(peers, ","), func(name string) bool { return name == ours })
	}
	for _, name := range o.peers {
		if !slices.Contains(all, name) {
			return fmt.Errorf("--peers: there is no peer %q: %s", name, strings.Join(all, ", "))
		}
	}
	return nil
}

// named returns the workloads that a word of --only stands for: those of a suite,
// with --quick the quick ones, or one by its name, which for e2e is enough.
func (o *options) named(word string) []string {
	var found []string
	for _, s := range suites() {
		for _, w := range s.workloads {
			if s.matches(word) && (w.quick || !o.quick) || s.full(w) == word || s.full(w) == "e2e/"+word {
				found = append(found, s.full(w))
			}
		}
	}
	return found
}
