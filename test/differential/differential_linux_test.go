// Package differential sends the same packets through our forwarder and through a
// Linux router with nftables and compares what comes out, packet by packet.
// Where they differ, docs/DIFFERENCES.md says how and why, or the test fails.
package differential

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vrouter-go/vrouter/test/packet"
)

var update = flag.Bool("update", false, "write the table of docs/DIFFERENCES.md anew; reasons are kept, new ones are for a human to give")

// step is one line of testdata/cases.txt.
type step struct {
	key    string // case and number, "ttl 2"
	from   string // endpoint, or "member"
	packet string // one or several lines of test/packet, with ";" between
}

// steps reads testdata/cases.txt.
func steps(t *testing.T) (list []step) {
	t.Helper()
	text, err := os.ReadFile("testdata/cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	name, n := "", 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "== "):
			name, n = line[3:], 0
		default:
			n++
			from, packet, _ := strings.Cut(line, " ")
			list = append(list, step{fmt.Sprintf("%s %d", name, n), from, packet})
		}
	}
	return list
}

// TestAgainstKernel compares the two worlds step by step.
func TestAgainstKernel(t *testing.T) {
	needs(t)
	a, b := ours(t, false), kernels(t, false)
	var found []difference
	same := 0
	for _, s := range steps(t) {
		x, y := a.play(t, s), b.play(t, s)
		if x == y {
			same++
			continue
		}
		found = append(found, difference{key: s.key, sent: s.from + " " + s.packet, ours: x, kernel: y})
	}
	t.Logf("%d packets fared the same, %d did not", same, len(found))
	if same < 80 {
		t.Errorf("only %d steps are the same: one of the worlds does not work", same)
	}
	judge(t, found)
}

// serviceAddresses have several members, which the two worlds choose by hashes
// of their own.
var serviceAddresses = []string{"10.96.0.10", "fd00:96::10"}

// play sends a step's packets and returns what every endpoint was sent, in words,
// a member's name and address made the same for all members.
func (w *world) play(t *testing.T, s step) string {
	t.Helper()
	from, text := s.from, s.packet
	if from == "member" {
		from = w.member
	}
	anonymous := strings.Contains(text, "@")
	for _, a := range serviceAddresses {
		anonymous = anonymous || strings.Contains(text, a+" ") || strings.Contains(text, a+":") || strings.Contains(text, a+"]")
	}
	for _, e := range endpoints {
		if e.name == w.member {
			text = strings.NewReplacer("@4", e.four, "@6", e.six).Replace(text)
		}
	}
	for line := range strings.SplitSeq(text, ";") {
		frame, err := packet.Build(line, link(from))
		if err != nil {
			t.Fatalf("%s %s: %v", w.name, s.key, err)
		}
		w.wires[from].send(t, frame)
	}
	w.beacon(t, from)
	var all []string
	for _, e := range endpoints {
		name := e.name
		got := w.collect(t, e, from)
		if anonymous && len(got) > 0 && strings.HasPrefix(e.name, "web-") {
			if e.name != from {
				w.member = e.name
			}
			name = "member"
		}
		slices.Sort(got)
		for _, line := range got {
			all = append(all, name+": "+line)
		}
	}
	outcome := strings.Join(all, "; ")
	if anonymous {
		for _, e := range endpoints[1:3] {
			outcome = strings.NewReplacer("["+e.six+"]", "[@6]", e.six, "@6", e.four, "@4").Replace(outcome)
		}
	}
	if outcome == "" {
		return "nothing"
	}
	return outcome
}

// beacon sends a packet to every endpoint behind a step's packets, and an echo to
// the router for the sender itself: once these have come, all has come.
func (w *world) beacon(t *testing.T, from string) {
	t.Helper()
	w.seq++
	sender := lookup(from)
	for _, e := range endpoints {
		line := fmt.Sprintf("%s:%d > %s:9 udp len=3", sender.four, 20000+w.seq, e.four)
		if e.name == from {
			line = fmt.Sprintf("%s > %s icmp echo-request id=%d seq=99", sender.four, sender.gate4, 20000+w.seq)
		}
		frame, err := packet.Build(line, link(from))
		if err != nil {
			t.Fatal(err)
		}
		w.wires[from].send(t, frame)
	}
}

// collect returns what an endpoint was sent before its beacon.
func (w *world) collect(t *testing.T, e endpoint, from string) (lines []string) {
	t.Helper()
	const patience = 3 * time.Second
	toGuest := packet.Link{Src: link(e.name).Dst, Dst: link(e.name).Src}
	end := fmt.Sprintf("%s:%d > %s:9 udp len=3 ttl=63", lookup(from).four, 20000+w.seq, e.four)
	if e.name == from {
		end = fmt.Sprintf("%s > %s icmp echo-reply id=%d seq=99 ttl=64", e.gate4, e.four, 20000+w.seq)
	}
	for {
		frame := w.wires[e.name].receive(t, patience)
		if frame == nil {
			t.Fatalf("%s: %s does not receive %q; so far %q", w.name, e.name, end, lines)
		}
		if string(frame[6:12]) != string(toGuest.Src) {
			continue // the endpoint's own kernel
		}
		if frame[0]&1 != 0 {
			continue // a router's own talk to groups: announcements, MLD, neighbour discovery
		}
		line := packet.Format(frame, toGuest)
		if line == end {
			return lines
		}
		lines = append(lines, plain(line))
	}
}

// cosmetic are header fields that a router chooses for what it makes itself
// (docs/design/router-answers.md): not compared.
var cosmetic = regexp.MustCompile(`^([^\[]* ttl=64)( df)?( tos=\d+)?`)

// ident is a fragment's identification: the kernel gives IPv6 fragments a new one.
var ident = regexp.MustCompile(` frag=\d+:`)

// plain leaves away what is not compared.
func plain(line string) string {
	return ident.ReplaceAllString(cosmetic.ReplaceAllString(line, "$1"), " frag=ID:")
}

func lookup(name string) endpoint {
	for _, e := range endpoints {
		if e.name == name {
			return e
		}
	}
	return endpoint{}
}
