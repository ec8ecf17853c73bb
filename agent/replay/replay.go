// Package replay runs capture files through the production engine: the state
// file is compiled as the daemon compiles it, one worker moves the packets, and
// the capture times are the clock. The same input gives the same output, byte
// for byte.
package replay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port/pcap"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Input is a capture of what one interface sends.
type Input struct {
	Interface string // the VMI's name, or vhost0
	File      string // pcap or pcapng
}

// Config says what to replay.
type Config struct {
	Resources []*pb.Resource // the whole state
	Inputs    []Input
	OutDir    string // gets <interface>.pcap for each interface that was sent to
	Sessions  int    // capacity of the flow table; 0 = 65536
}

// Replay is a run that has ended, with everything it left behind.
type Replay struct {
	Forwarder *forwarder.Forwarder
	Compiled  *compile.Result
	Packets   uint64 // read from all inputs
	Truncated int    // read, but cut short by their capture
	devices   []*device
	clock     int64
	swept     uint32
}

// device is one interface's captures.
type device struct {
	*pcap.Device
	port uint16
	out  *lateFile
}

// ErrUnknownInterface means that an input names an interface the state lacks.
var ErrUnknownInterface = errors.New("no such interface in the state")

// Run replays everything and returns. Close the result.
func Run(c Config) (*Replay, error) {
	st := state.New()
	tx, err := st.Begin(state.Request{Owner: "replay", Upserts: c.Resources})
	if err != nil {
		return nil, err
	}
	tx.Commit()
	compiled, err := compile.New(compile.Config{}).All(st)
	if err != nil {
		return nil, err
	}
	r := &Replay{Compiled: compiled}
	if err := r.run(c); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// run replays everything.
func (r *Replay) run(c Config) error {
	if err := r.open(c); err != nil {
		return err
	}
	// Ports first, then the snapshot: a replay announces nothing to nobody.
	for _, d := range r.devices {
		if err := r.Forwarder.Attach(d.port, d); err != nil {
			return err
		}
	}
	r.Forwarder.Publish(r.Compiled.Snapshot)
	r.play()
	return r.check()
}

// open makes the forwarder and a device for each interface of the state.
func (r *Replay) open(c Config) error {
	if err := os.MkdirAll(c.OutDir, 0o755); err != nil {
		return err
	}
	if c.Sessions == 0 {
		c.Sessions = 64 << 10
	}
	inputs := map[string]string{}
	for _, in := range c.Inputs {
		if _, twice := inputs[in.Interface]; twice {
			return fmt.Errorf("interface %s has two inputs: merge the captures with mergecap", in.Interface)
		}
		inputs[in.Interface] = in.File
	}
	for _, spec := range r.Compiled.Ports {
		if spec == nil {
			continue
		}
		d := &device{port: spec.Port}
		config := pcap.Config{Name: spec.Name, Gated: true}
		if file, ok := inputs[spec.Name]; ok {
			reader, err := pcap.Open(file)
			if err != nil {
				return err
			}
			config.In = reader
			delete(inputs, spec.Name)
		}
		out, err := newLateFile(filepath.Join(c.OutDir, spec.Name+".pcap"))
		if err != nil {
			return err
		}
		d.out = out
		if config.Out, err = pcap.NewWriter(out); err != nil {
			return err
		}
		d.Device = pcap.New(config)
		r.devices = append(r.devices, d)
	}
	for name := range inputs {
		return fmt.Errorf("%w: %s", ErrUnknownInterface, name)
	}
	if first, ok := r.next(); ok {
		r.clock, _ = first.Peek()
	}
	f, err := forwarder.New(forwarder.Config{
		Workers: 1, Sessions: c.Sessions, Clock: func() int64 { return r.clock },
		Seed: [2]uint64{1, 2}, // any, but the same every time
	})
	r.Forwarder = f
	return err
}

// next returns the device with the oldest frame; of two with the same time, the
// one whose interface has the lower port.
func (r *Replay) next() (first *device, ok bool) {
	var oldest int64
	for _, d := range r.devices {
		if at, waiting := d.Peek(); waiting && (first == nil || at < oldest) {
			first, oldest = d, at
		}
	}
	return first, first != nil
}

// sweepTicks is how often idle sessions leave, in ticks of the captures' time.
const sweepTicks = 10

// play moves every frame, in order of time. Captures may go back in time; the
// clock does not.
func (r *Replay) play() {
	for {
		d, ok := r.next()
		if !ok {
			return
		}
		if at, _ := d.Peek(); at > r.clock {
			r.clock = at
		}
		if now := r.Forwarder.Now(); now-r.swept >= sweepTicks {
			r.Forwarder.Sweep()
			r.swept = now
		}
		for _, each := range r.devices {
			each.SetTime(r.clock)
		}
		d.Admit(1)
		r.Packets++
		r.Forwarder.Step()
	}
}

// check returns the first error that a capture met.
func (r *Replay) check() error {
	for _, d := range r.devices {
		if err := d.Err(); err != nil {
			return fmt.Errorf("%s: %w", d.Name(), err)
		}
		r.Truncated += d.Truncated()
	}
	return nil
}

// Close ends the captures and frees the forwarder.
func (r *Replay) Close() error {
	var errs []error
	for _, d := range r.devices {
		if r.Forwarder != nil {
			r.Forwarder.Detach(d.port)
		}
		errs = append(errs, d.Close(), d.out.Close())
	}
	r.devices = nil
	if r.Forwarder != nil {
		errs = append(errs, r.Forwarder.Close())
		r.Forwarder = nil
	}
	return errors.Join(errs...)
}
