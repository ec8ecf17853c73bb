package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"time"

	"github.com/vrouter-go/vrouter/test/bench/load"
)

// Run runs a program in the client's namespace to its end and returns what it
// printed on standard output.
func (p *Peer) Run(ctx context.Context, args ...string) ([]byte, error) {
	if _, err := exec.LookPath(args[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", args[0], ErrMissing)
	}
	g, err := p.talk(p.client, "client", args...)
	if err != nil {
		return nil, err
	}
	p.temporary = append(p.temporary, g)
	defer p.forget(g)
	out, err := readAll(ctx, g)
	if err == nil {
		err = (<-g.done).err
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w: %.500s %s", p.Name, args[0], err, out, tail(g.log))
	}
	return out, nil
}

// readAll reads what a program prints until it ends, which it does when ctx does.
func readAll(ctx context.Context, g *program) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = g.cmd.Process.Kill() })
	defer stop()
	out, err := io.ReadAll(g.out)
	return out, errors.Join(err, ctx.Err())
}

// forget ends a program that was needed once and remembers what it cost.
func (p *Peer) forget(g *program) {
	g.stop()
	p.spent += g.cmd.ProcessState.UserTime() + g.cmd.ProcessState.SystemTime()
	is := func(other *program) bool { return other == g }
	p.programs, p.temporary = slices.DeleteFunc(p.programs, is), slices.DeleteFunc(p.temporary, is)
}

// The UDP load: 18 bytes in a frame of 60, the least there is.
const flows, payload = 8, 18

// Sender is a running sender of UDP packets.
type Sender struct {
	p    *Peer
	g    *program
	ctx  context.Context
	gone bool
}

// Send starts to send small UDP packets, rate each second, 0: as many as possible.
// Stop must be called.
func (p *Peer) Send(ctx context.Context, rate float64, length time.Duration) (*Sender, error) {
	what := load.UDP{To: p.UDP.String(), Flows: flows, Size: payload, Rate: rate, Seconds: length.Seconds()}
	g, err := p.play(p.client, "send", "udp", what)
	s := &Sender{p: p, g: g, ctx: ctx, gone: g == nil}
	if g != nil {
		p.temporary = append(p.temporary, g)
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Wait waits until everything is sent.
func (s *Sender) Wait() (sent load.Sent, err error) {
	out, err := readAll(s.ctx, s.g)
	if err == nil {
		err = json.Unmarshal(out, &sent)
	}
	if err != nil {
		err = fmt.Errorf("%s: send: %w: %s", s.p.Name, err, tail(s.g.log))
	}
	return sent, err
}

// Stop ends the sender, also before its time.
func (s *Sender) Stop() {
	if !s.gone {
		s.p.forget(s.g)
	}
	s.gone = true
}

// Count returns how many UDP packets the servers have received so far, and when
// they were asked.
func (p *Peer) Count() (sum load.Received, err error) {
	for _, g := range p.counters {
		var c load.Received
		if _, err := fmt.Fprintln(g.in); err != nil {
			return sum, fmt.Errorf("%s: %w", g.name, err)
		}
		line, err := g.out.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &c)
		}
		if err != nil {
			return sum, fmt.Errorf("%s: %w: %s", g.name, err, tail(g.log))
		}
		sum.Datagrams += c.Datagrams
		sum.Nanos = c.Nanos
	}
	return sum, nil
}

// AskFor sends requests one at a time, 64 bytes each.
func (p *Peer) AskFor(ctx context.Context, length time.Duration) (a load.Answers, err error) {
	args, err := p.setup.role("rr", load.RR{To: p.Ask.String(), Size: 64, Seconds: length.Seconds()})
	if err != nil {
		return a, err
	}
	out, err := p.Run(ctx, args...)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(out, &a)
}
