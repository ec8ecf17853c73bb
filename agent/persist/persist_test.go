package persist

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func network(name string) *pb.Resource {
	return &pb.Resource{Name: name, Spec: &pb.Resource_VirtualNetwork{VirtualNetwork: &pb.VirtualNetwork{}}}
}

func names(s *Saved) string {
	var list []string
	for _, r := range s.Resources {
		list = append(list, r.GetName())
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// fill writes a state at generation 1 and a journal up to generation 4.
func fill(t *testing.T, dir string) {
	t.Helper()
	s, saved, err := Open(dir)
	if err != nil || saved.Generation != 0 {
		t.Fatalf("an empty directory: %v, %v", saved, err)
	}
	defer s.Close()
	if err := s.Compact(Saved{Generation: 1, Resources: []*pb.Resource{network("a")}}); err != nil {
		t.Fatal(err)
	}
	for i, tx := range []Transaction{
		{Upserts: []*pb.Resource{network("b")}, Controller: "kube", Election: 7},
		{Upserts: []*pb.Resource{network("c")}},
		{Deletes: []*pb.ResourceKey{{Kind: "VirtualNetwork", Name: "a"}}},
	} {
		tx.Generation = uint64(i + 2)
		if _, err := s.Append(tx); err != nil {
			t.Fatal(err)
		}
	}
}

func TestJournalIsReplayed(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir)
	s, saved, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if names(saved) != "b c" || saved.Generation != 4 || saved.Elections["kube"] != 7 || s.Status().Warning != "" {
		t.Errorf("%v at %d, elections %v, warning %q", names(saved), saved.Generation, saved.Elections, s.Status().Warning)
	}
}

// TestTornJournal cuts the journal at every length, as a crash may, and flips a
// byte at every place: what comes back is always a state that once was, never
// newer transactions without older ones, and new ones can be appended behind it.
func TestTornJournal(t *testing.T) {
	was := map[uint64]string{1: "a", 2: "a b", 3: "a b c", 4: "b c"}
	source := t.TempDir()
	fill(t, source)
	journal, err := os.ReadFile(filepath.Join(source, journalFile))
	if err != nil {
		t.Fatal(err)
	}
	if len(journal) < roomStep {
		t.Errorf("the journal has %d bytes, no room for the next record", len(journal))
	}
	journal = bytes.TrimRight(journal, "\x00")
	room := make([]byte, 100)
	state, err := os.ReadFile(filepath.Join(source, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	check := func(what string, content []byte) {
		t.Helper()
		for name, b := range map[string][]byte{stateFile: state, journalFile: content} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, saved, err := Open(dir)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer s.Close()
		if names(saved) != was[saved.Generation] {
			t.Fatalf("%s: %q at generation %d, want %q", what, names(saved), saved.Generation, was[saved.Generation])
		}
		if _, err := s.Append(Transaction{Generation: saved.Generation + 1, Upserts: []*pb.Resource{network("z")}}); err != nil {
			t.Fatal(err)
		}
		again, after, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if !strings.HasSuffix(names(after), "z") || after.Generation != saved.Generation+1 {
			t.Fatalf("%s: what was appended is lost: %q at %d", what, names(after), after.Generation)
		}
	}
	for n := range len(journal) {
		check(fmt.Sprintf("cut to %d bytes", n), journal[:n])
		check(fmt.Sprintf("cut to %d bytes with room behind", n), append(slices.Clone(journal[:n]), room...))
		flipped := slices.Clone(journal)
		flipped[n] ^= 0x41
		check(fmt.Sprintf("byte %d flipped", n), flipped)
	}
}

// TestDamagedStateFile flips every byte of the state file: the copy before it is
// used, and a later write does not put the damaged one in its place.
func TestDamagedStateFile(t *testing.T) {
	dir := t.TempDir()
	s, _, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"old", "new"} {
		if err := s.Compact(Saved{Generation: uint64(i + 1), Resources: []*pb.Resource{network(name)}}); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	path := filepath.Join(dir, stateFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, saved, err := Open(dir)
		if err != nil || names(saved) != "old" || !strings.Contains(s.Status().Warning, "damaged") {
			t.Fatalf("byte %d: %v, %v, warning %q", i, saved, err, s.Status().Warning)
		}
		if i == 0 { // the repair keeps the good copy
			if err := s.Compact(*saved); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
	}
}

func FuzzRecord(f *testing.F) {
	payload, err := encode(Transaction{Generation: 3, Upserts: []*pb.Resource{network("a")}, Controller: "kube"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(payload)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = readRecord(b)
		_, _ = decode(b)
	})
}
