package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/agent/replay"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

const captures = "../../testdata/pcap"

// TestCaptures replays captures of real programs (see testdata/pcap/README.md)
// twice. Both runs are the same byte for byte, and the same as the goldens.
func TestCaptures(t *testing.T) {
	for _, dir := range fixtures(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			first, second := run(t, dir), run(t, dir)
			if !sameFiles(first, second) {
				t.Fatal("two replays of the same captures differ")
			}
			if *update {
				writeGoldens(t, dir, first)
			}
			golden := readGoldens(t, dir)
			for _, name := range union(golden, first) {
				if !bytes.Equal(golden[name], first[name]) {
					t.Errorf("%s differs from the golden; to accept it: go test ./test/replay -update\n%s", name, describe(golden[name], first[name]))
				}
			}
		})
	}
}

// fixtures are the directories of testdata/pcap.
func fixtures(t *testing.T) (dirs []string) {
	t.Helper()
	states, err := filepath.Glob(captures + "/*/state.yaml")
	if err != nil || len(states) < 10 {
		t.Fatalf("%d fixtures in %s, want at least 10: %v", len(states), captures, err)
	}
	for _, s := range states {
		dirs = append(dirs, filepath.Dir(s))
	}
	return dirs
}

// run replays a fixture and returns the files it makes, by name.
func run(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	sources, err := statefile.Read([]string{filepath.Join(dir, "state.yaml")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	documents, err := statefile.Parse(sources, nil)
	if err != nil {
		t.Fatal(err)
	}
	config := replay.Config{OutDir: t.TempDir()}
	for _, d := range documents {
		config.Resources = append(config.Resources, d.Resource)
	}
	for name, file := range inputs(t, dir) {
		config.Inputs = append(config.Inputs, replay.Input{Interface: name, File: file})
	}
	r, err := replay.Run(config)
	if err != nil {
		t.Fatal(err)
	}
	flows, drops := agent.Report(r.Forwarder, r.Compiled.Names)
	if r.Truncated != 0 {
		t.Errorf("%d packets of the fixture are cut short", r.Truncated)
	}
	for _, d := range drops {
		if d.GetReason() == "UNKNOWN" {
			t.Error("a packet was dropped for an unknown reason")
		}
	}
	files := map[string][]byte{
		"sessions.json": text(t, &pb.ListFlowsResponse{Flows: flows}),
		"drops.json":    text(t, &pb.ListDropsResponse{Drops: drops}),
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range read(t, config.OutDir) {
		files["out/"+name] = data
	}
	return files
}

// inputs are what the interfaces of a fixture sent, by interface.
func inputs(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(dir + "/in-*.pcap")
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no in-*.pcap: %v", dir, err)
	}
	list := map[string]string{}
	for _, f := range files {
		list[strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "in-"), ".pcap")] = f
	}
	return list
}

// text writes a message as vrouter replay does.
func text(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	return append(out.Bytes(), '\n')
}

// read returns the files of a directory; none if there is none.
func read(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func readGoldens(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for name, data := range read(t, filepath.Join(dir, "out")) {
		files["out/"+name] = data
	}
	for _, name := range []string{"sessions.json", "drops.json"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	return files
}

func writeGoldens(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	out := filepath.Join(dir, "out")
	if err := errors.Join(os.RemoveAll(out), os.MkdirAll(out, 0o755)); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func sameFiles(a, b map[string][]byte) bool {
	for _, name := range union(a, b) {
		if !bytes.Equal(a[name], b[name]) {
			return false
		}
	}
	return true
}

func union(a, b map[string][]byte) (names []string) {
	for name := range a {
		names = append(names, name)
	}
	for name := range b {
		if _, both := a[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// describe says where two files differ: line by line where they are text, frame
// by frame where they are captures.
func describe(want, got []byte) string {
	if json.Valid(want) && json.Valid(got) {
		return cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n"))
	}
	a, b := frames(want), frames(got)
	for i := range max(len(a), len(b)) {
		x, y := "nothing", "nothing"
		if i < len(a) {
			x = a[i].line
		}
		if i < len(b) {
			y = b[i].line
		}
		if x != y {
			return fmt.Sprintf("frame %d of %d, %d\n-%s\n+%s", i+1, len(a), len(b), x, y)
		}
	}
	return "the lines of all frames are the same: times or bytes that they do not show differ"
}
