//go:build linux

// Package load is the traffic of the side-by-side benchmark: senders, receivers
// and the bare copy loops, each a process of its own, so that its processor time
// can be told from the forwarder's. The benchmark starts itself again with "load"
// and a role in a namespace and reads one JSON document per line from it.
//
// A role's threads make raw system calls that wait: the Go scheduler, which would
// add its own time to each, does not know. That is why a role must run with Env
// and never do anything else.
package load

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// Env returns what the environment of a role must hold: threads that wait in raw
// calls hold a processor of the Go runtime each, can take part in no garbage
// collection and cannot be preempted.
func Env() []string { return []string{"GOGC=off", "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=16"} }

// Command is the argument that makes the benchmark play a role.
const Command = "load"

// Args returns the arguments that make the benchmark play a role.
func Args(role string, with any) ([]string, error) {
	b, err := json.Marshal(with)
	return []string{Command, role, string(b)}, err
}

// Main plays the role that args name. It returns when the role's time is over, or
// when standard input ends, so that no role outlives the benchmark.
func Main(args []string) error {
	if len(args) == 0 {
		return errors.New("load: which role?")
	}
	role, args := args[0], args[1:]
	switch role {
	case "serve":
		return serve(args)
	case "udp":
		return sendUDP(args)
	case "rr":
		return roundTrips(args)
	case "tap-loop":
		return tapLoop(args)
	case "tunnel-loop":
		return tunnelLoop(args)
	}
	return fmt.Errorf("load: no role %q", role)
}

// parse reads a role's arguments, all of them one JSON document.
func parse(args []string, into any) error {
	if len(args) != 1 {
		return fmt.Errorf("%d arguments, want one JSON document", len(args))
	}
	d := json.NewDecoder(strings.NewReader(args[0]))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// say writes one line for the benchmark to read.
func say(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// answer says that the role is ready, then answers each line of standard input
// until it ends.
func answer(ask func() any) error {
	if err := say(struct{}{}); err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	for {
		if _, err := in.ReadString('\n'); err != nil {
			return nil
		}
		if err := say(ask()); err != nil {
			return err
		}
	}
}

// leaveWithParent ends the process when standard input ends.
func leaveWithParent() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it
		os.Exit(0)
	}()
}

// thread runs f on a thread of its own; what it returns ends the process.
func thread(f func() error) {
	go func() {
		runtime.LockOSThread()
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			os.Exit(1)
		}
	}()
}
