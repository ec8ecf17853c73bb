package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSampleIsTheDefault holds that the sample file in deploy/ is valid and says
// what an empty file means.
func TestSampleIsTheDefault(t *testing.T) {
	text, err := os.ReadFile("../../deploy/vrouter.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sample, err := Parse("vrouter.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	empty, err := Parse("empty", nil)
	if err != nil {
		t.Fatal(err)
	}
	// The sample writes out what the engine's zero values stand for.
	empty.Forwarder.Sessions, empty.Forwarder.AffinityEntries = 524288, 65536
	empty.TCP.Names = map[string]string{}
	for _, s := range []*Subjects{&empty.Roles.Admins, &empty.Roles.Operators, &empty.Roles.Viewers} {
		*s = Subjects{Users: []string{}, Groups: []string{}}
	}
	empty.Timeouts = Timeouts{
		Duration(300 * time.Second), Duration(300 * time.Second), Duration(7440 * time.Second),
		Duration(240 * time.Second), Duration(60 * time.Second), Duration(300 * time.Second),
	}
	if diff := cmp.Diff(empty, sample); diff != "" {
		t.Errorf("-default +sample:\n%s", diff)
	}
}

func TestWrongFiles(t *testing.T) {
	for _, tc := range []struct{ text, says string }{
		{"sockt: /x\n", "[1:1]"},
		{"socket: /x\nlog:\n  lvl: info\n", "[3:3]"},
		{"socket: [\n", "[1:"},
		{"socket: /a\nsocket: /b\n", "[2:1]"},
		{"forwarder:\n  workers: many\n", "[2:12]"},
		{"socket: relative\n", "absolute"},
		{"stateDir: relative\n", "absolute"},
		{"forwarder: {workers: 1000}\n", "256"},
		{"forwarder: {sessions: 5}\n", "1024"},
		{"forwarder: {defaultFlowQuota: -2}\n", "-1"},
		{"timeouts: {udpStream: 5s}\n", "timeouts"},
		{"timeouts: {udpStream: soon}\n", "duration"},
		{"metrics: {address: 0.0.0.0:9469}\n", "loopback"},
		{"log: {level: loud}\n", "debug"},
		{"log: {format: xml}\n", "json"},
		{"tcp: {address: 192.0.2.1:7443}\n", "mutual TLS"},
		{"tcp: {names: {a: king}}\n", "admin"},
	} {
		_, err := Parse("f.yaml", []byte(tc.text))
		if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), "f.yaml") {
			t.Errorf("%q: %v, want the file and %q", tc.text, err, tc.says)
		}
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := Load("/nowhere/vrouter.yaml"); err == nil {
		t.Error("a file that was named and is not there was taken for empty")
	}
}
