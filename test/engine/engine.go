// Package engine runs the production state, compiler and forwarder over in-memory
// ports and a clock of its own, for scenario and property tests. It belongs to
// one goroutine.
package engine

import (
	"fmt"
	"net"
	"time"

	"github.com/vrouter-go/vrouter/agent"
	"github.com/vrouter-go/vrouter/agent/compile"
	"github.com/vrouter-go/vrouter/agent/state"
	"github.com/vrouter-go/vrouter/forwarder"
	"github.com/vrouter-go/vrouter/internal/port"
	"github.com/vrouter-go/vrouter/internal/port/memory"
	"github.com/vrouter-go/vrouter/internal/statefile"
	pb "github.com/vrouter-go/vrouter/proto/vrouter/v1"
	"github.com/vrouter-go/vrouter/test/packet"
)

// Engine is a forwarder whose wires the test holds.
type Engine struct {
	Forwarder *forwarder.Forwarder
	Compiled  *compile.Result

	state    *state.State
	compiler *compile.Compiler
	devices  map[uint16]*memory.Device
	ports    map[string]uint16 // by interface name
	nanos    int64
	frame    *port.Frame
}

// New returns an engine without state.
func New() (*Engine, error) {
	e := &Engine{
		state: state.New(), compiler: compile.New(compile.Config{}),
		devices: map[uint16]*memory.Device{}, ports: map[string]uint16{}, frame: port.NewFrame(),
	}
	var err error
	e.Forwarder, err = forwarder.New(forwarder.Config{
		Workers: 1, Sessions: 64 << 10, Seed: [2]uint64{1, 2}, Clock: func() int64 { return e.nanos },
	})
	return e, err
}

// Apply brings documents into force, as the daemon does for a transaction.
func (e *Engine) Apply(files []statefile.Source, deletes []state.Key) error {
	documents, err := statefile.Parse(files, e.state.All())
	if err != nil {
		return err
	}
	request := state.Request{Owner: "test", Deletes: deletes}
	for _, d := range documents {
		request.Upserts = append(request.Upserts, d.Resource)
	}
	tx, err := e.state.Begin(request)
	if err != nil {
		return err
	}
	affected := tx.Affected()
	tx.Commit()
	if e.Compiled, err = e.compiler.Compile(e.state, affected); err != nil {
		return err
	}
	return e.publish()
}

// publish attaches new ports before the snapshot, so that they announce nothing.
func (e *Engine) publish() error {
	wanted := map[uint16]string{}
	for _, spec := range e.Compiled.Ports {
		if spec != nil {
			wanted[spec.Port] = spec.Name
		}
	}
	for index, dev := range e.devices {
		if _, ok := wanted[index]; !ok {
			e.Forwarder.Detach(index)
			delete(e.devices, index)
			if err := dev.Close(); err != nil {
				return err
			}
		}
	}
	clear(e.ports)
	for index, name := range wanted {
		e.ports[name] = index
		if e.devices[index] != nil {
			continue
		}
		dev, err := memory.New(memory.Config{Name: name, Depth: 256})
		if err != nil {
			return err
		}
		e.devices[index] = dev
		if err := e.Forwarder.Attach(index, dev); err != nil {
			return err
		}
	}
	e.Forwarder.Publish(e.Compiled.Snapshot)
	return nil
}

// Port returns an interface's port.
func (e *Engine) Port(name string) (uint16, error) {
	if p, ok := e.ports[name]; ok {
		return p, nil
	}
	return 0, fmt.Errorf("the state has no interface %s", name)
}

// Names returns the interfaces' names by port.
func (e *Engine) Names() map[uint16]string {
	names := map[uint16]string{}
	for name, p := range e.ports {
		names[p] = name
	}
	return names
}

// FromGuest is the link of frames that an interface sends, ToGuest of those it
// is sent.
func (e *Engine) FromGuest(p uint16) packet.Link {
	return packet.Link{Src: e.mac(p), Dst: forwarder.RouterMAC[:]}
}

// ToGuest is the link of frames that an interface is sent.
func (e *Engine) ToGuest(p uint16) packet.Link {
	return packet.Link{Src: forwarder.RouterMAC[:], Dst: e.mac(p)}
}

func (e *Engine) mac(p uint16) net.HardwareAddr {
	m := e.Compiled.Snapshot.Interfaces[p].MAC
	return m[:]
}

// Send puts a frame on an interface's wire and lets the forwarder work until
// nothing moves.
func (e *Engine) Send(p uint16, frame []byte) error {
	f := e.frame
	f.Reset()
	f.End = f.Start + copy(f.Buf[f.Start:], frame)
	if e.devices[p] == nil || e.devices[p].Inject(0, f) != 1 {
		return fmt.Errorf("port %d does not take the frame", p)
	}
	for e.Forwarder.Step() {
	}
	return nil
}

// Received returns what an interface was sent since the last call.
func (e *Engine) Received(p uint16) (frames [][]byte) {
	one := []*port.Frame{e.frame}
	for e.devices[p] != nil && e.devices[p].Drain(0, one) == 1 {
		frames = append(frames, append([]byte(nil), e.frame.Bytes()...))
	}
	return frames
}

// Wait lets time pass; idle sessions and waiting fragments leave.
func (e *Engine) Wait(d time.Duration) {
	const step = 10 * time.Second
	for d > 0 {
		e.nanos += int64(min(d, step))
		d -= step
		e.Forwarder.Sweep()
	}
	e.Forwarder.Step()
}

// Report returns the sessions and the drop counters.
func (e *Engine) Report() ([]*pb.Flow, []*pb.DropCounter) {
	return agent.Report(e.Forwarder, e.Compiled.Names)
}

// Conserve checks that no packet was lost without a reason.
func (e *Engine) Conserve() error {
	var in, out uint64
	for i := range e.Compiled.Snapshot.Interfaces {
		c := e.Forwarder.PortCounters(uint16(i))
		in += c.RxPackets + c.Generated
		out += c.TxPackets + c.Coalesced + c.Held
		for _, n := range c.Drops {
			out += n
		}
		if n := c.Drops[forwarder.DropUnknown]; n != 0 {
			return fmt.Errorf("port %d: %d packets dropped for an unknown reason", i, n)
		}
	}
	if in != out {
		return fmt.Errorf("rx + generated = %d, tx + coalesced + drops + held = %d", in, out)
	}
	if n := e.Forwarder.Panics(); n != 0 {
		return fmt.Errorf("%d panics survived", n)
	}
	return nil
}

// Close frees the forwarder.
func (e *Engine) Close() error {
	for index, dev := range e.devices {
		e.Forwarder.Detach(index)
		if err := dev.Close(); err != nil {
			return err
		}
	}
	return e.Forwarder.Close()
}
