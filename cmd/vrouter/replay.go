package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/agent/replay"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// replayFlags are the flags of vrouter replay.
type replayFlags struct {
	state    []string
	in       []string
	out      string
	drops    string
	sessions string
}

// replayCommand is vrouter replay: the production engine over capture files.
func replayCommand() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay --config STATE.yaml --in VMI=FILE.pcap ... --out DIR",
		Short: "Run capture files through the production engine, without privileges",
		Long: `Compiles the state as the daemon does, feeds it what each interface sent, in the
order of the capture times, which also drive the clock, and writes
DIR/<interface>.pcap for each interface that was sent to. The same input gives
the same output, byte for byte.`,
		Example: `  vrouter replay --config state.yaml --in client-1=client.pcap --out out
  vrouter replay --config state.yaml --in web-1=a.pcap --in web-2=b.pcapng --out out --drops drops.json --sessions sessions.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runReplay(f, cmd.InOrStdin(), cmd.OutOrStdout()) },
	}
	cmd.Flags().StringArrayVar(&f.state, "config", nil, "state file or directory (may be repeated)")
	cmd.Flags().StringArrayVar(&f.in, "in", nil, "VMI=FILE: what the interface sends, pcap or pcapng (may be repeated)")
	cmd.Flags().StringVar(&f.out, "out", "", "directory for what each interface is sent")
	cmd.Flags().StringVar(&f.drops, "drops", "", "write the drop counters here, as JSON")
	cmd.Flags().StringVar(&f.sessions, "sessions", "", "write the sessions at the end here, as JSON")
	for _, name := range []string{"config", "in", "out"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

// runReplay carries the command out.
func runReplay(f replayFlags, stdin io.Reader, stdout io.Writer) (err error) {
	config := replay.Config{OutDir: f.out}
	if config.Resources, err = readState(f.state, stdin); err != nil {
		return err
	}
	for _, in := range f.in {
		name, file, ok := strings.Cut(in, "=")
		if !ok || name == "" || file == "" {
			return fmt.Errorf("--in %s: want VMI=FILE, for example --in web-1=web-1.pcap", in)
		}
		config.Inputs = append(config.Inputs, replay.Input{Interface: name, File: file})
	}
	r, err := replay.Run(config)
	if err != nil {
		return err
	}
	flows, drops := agent.Report(r.Forwarder, r.Compiled.Names)
	err = errors.Join(writeJSON(f.sessions, &pb.ListFlowsResponse{Flows: flows}), writeJSON(f.drops, &pb.ListDropsResponse{Drops: drops}))
	var dropped uint64
	for _, d := range drops {
		dropped += d.GetPackets()
	}
	fmt.Fprintf(stdout, "%d packets read, %d dropped, %d sessions at the end\n", r.Packets, dropped, len(flows))
	if r.Truncated > 0 {
		fmt.Fprintf(stdout, "%d packets were cut short by their capture and may have been dropped for it: capture with a larger snap length\n", r.Truncated)
	}
	return errors.Join(err, r.Close())
}

// readState reads state files into resources.
func readState(paths []string, stdin io.Reader) ([]*pb.Resource, error) {
	sources, err := statefile.Read(paths, stdin)
	if err != nil {
		return nil, err
	}
	documents, err := statefile.Parse(sources, nil)
	if err != nil {
		return nil, err
	}
	var resources []*pb.Resource
	for _, d := range documents {
		resources = append(resources, d.Resource)
	}
	return resources, nil
}

// writeJSON writes a message to a file; no file, nothing to do.
func writeJSON(path string, m proto.Message) error {
	if path == "" {
		return nil
	}
	b, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil { // protojson varies its spaces on purpose
		return err
	}
	out.WriteByte('\n')
	return os.WriteFile(path, out.Bytes(), 0o644)
}
