package replay

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
	"github.com/vrouter-go/vrouter/test/engine"
	"github.com/vrouter-go/vrouter/test/packet"
)

const scenarios = "../../testdata/scenario"

// TestScenarios runs each testdata/scenario/*.txtar from top to bottom through
// the production engine:
//
//	config [FILE]   apply FILE of that directory, then the documents in the section
//	delete          remove resources, one "Kind name" a line
//	in VMI          what the interface sends, one packet a line (see test/packet)
//	wait 61s        let time pass
//	out VMI         what the interface was sent since the last step
//	drops           what was dropped since the last step: VMI, reason, packets
//	sessions        the live sessions
//
// Every packet out and every drop must be in the file, and nothing else:
// -update writes these sections anew, for a human to read.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob(scenarios + "/*.txtar")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d scenarios in %s, want at least 40: %v", len(files), scenarios, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, txtar.Parse(want))
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// player runs one scenario and writes down what happened.
type player struct {
	*engine.Engine
	t       *testing.T
	out     txtar.Archive
	dropped map[string]uint64 // at the end of the last step
}

// play runs a scenario and returns it with what happened.
func play(t *testing.T, a *txtar.Archive) []byte {
	e, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}()
	p := &player{Engine: e, t: t, out: txtar.Archive{Comment: a.Comment}, dropped: map[string]uint64{}}
	for _, f := range a.Files {
		verb, rest, _ := strings.Cut(f.Name, " ")
		switch verb {
		case "out", "drops":
			continue // written anew
		case "sessions":
			f.Data = p.sessions()
			p.out.Files = append(p.out.Files, f)
			continue
		}
		p.out.Files = append(p.out.Files, f)
		if err := p.step(verb, rest, string(f.Data)); err != nil {
			t.Fatalf("-- %s --: %v", f.Name, err)
		}
		if verb != "config" {
			p.observe()
		}
	}
	if err := e.Conserve(); err != nil {
		t.Error(err)
	}
	return txtar.Format(&p.out)
}

// step carries one section out.
func (p *player) step(verb, rest, body string) error {
	switch verb {
	case "config":
		var files []statefile.Source
		if rest != "" {
			data, err := os.ReadFile(filepath.Join(scenarios, rest))
			if err != nil {
				return err
			}
			files = append(files, statefile.Source{Name: rest, Data: data})
		}
		return p.Apply(append(files, statefile.Source{Name: "config", Data: []byte(body)}), nil)
	case "delete":
		var keys []state.Key
		for _, line := range lines(body) {
			kind, name, _ := strings.Cut(line, " ")
			keys = append(keys, state.Key{Kind: kind, Name: name})
		}
		return p.Apply(nil, keys)
	case "wait":
		d, err := time.ParseDuration(rest)
		p.Wait(d)
		return err
	case "in":
		from, err := p.Port(rest)
		if err != nil {
			return err
		}
		for _, line := range lines(body) {
			frame, err := packet.Build(line, p.FromGuest(from))
			if err != nil {
				return err
			}
			if err := p.Send(from, frame); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown section")
}

// lines are a section's lines without blank ones and comments.
func lines(body string) (list []string) {
	for line := range strings.Lines(body) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}

// observe writes down what was sent and dropped in a step.
func (p *player) observe() {
	names := p.Names()
	var ports []uint16
	for port := range names {
		ports = append(ports, port)
	}
	slices.SortFunc(ports, func(a, b uint16) int { return strings.Compare(names[a], names[b]) })
	for _, port := range ports {
		var text strings.Builder
		for _, frame := range p.Received(port) {
			fmt.Fprintln(&text, packet.Format(frame, p.ToGuest(port)))
		}
		if text.Len() > 0 {
			p.out.Files = append(p.out.Files, txtar.File{Name: "out " + names[port], Data: []byte(text.String())})
		}
	}
	_, drops := p.Report()
	var list []string
	for _, d := range drops {
		if d.GetInterface() == "" {
			continue // its interface was deleted, what it dropped was written down before
		}
		key := d.GetInterface() + " " + d.GetReason()
		if n := d.GetPackets() - p.dropped[key]; n > 0 {
			list = append(list, fmt.Sprintf("%s %d\n", key, n))
			p.dropped[key] = d.GetPackets()
		}
	}
	if slices.Sort(list); len(list) > 0 {
		p.out.Files = append(p.out.Files, txtar.File{Name: "drops", Data: []byte(strings.Join(list, ""))})
	}
}

// sessions lists the live sessions, a line each.
func (p *player) sessions() []byte {
	flows, _ := p.Report()
	var list []string
	for _, f := range flows {
		line := fmt.Sprintf("%s: %s => %s %s", f.GetInterface(), tuple(f.GetForward()), tuple(reverse(f.GetReply())), f.GetState())
		for _, o := range []struct{ name, value string }{
			{"output", f.GetOutput()}, {"fip", f.GetFloatingIp()}, {"drop", f.GetDropReason()}, {"rule", f.GetRule()},
		} {
			if o.value != "" {
				line += " " + o.name + "=" + o.value
			}
		}
		list = append(list, line+"\n")
	}
	slices.Sort(list)
	return []byte(strings.Join(list, ""))
}

func tuple(t *pb.Tuple) string {
	return fmt.Sprintf("%s %s:%d > %s:%d", strings.ToLower(t.GetProtocol().String()), t.GetSource(), t.GetSourcePort(), t.GetDestination(), t.GetDestinationPort())
}

func reverse(t *pb.Tuple) *pb.Tuple {
	return &pb.Tuple{
		Protocol: t.GetProtocol(), Source: t.GetDestination(), Destination: t.GetSource(),
		SourcePort: t.GetDestinationPort(), DestinationPort: t.GetSourcePort(),
	}
}
