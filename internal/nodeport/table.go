package nodeport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/netns"
	"github.com/vrouter-go/vrouter/internal/nftable"
)

// TableName is the name of the nftables table, of family inet, in the namespace that has
// the node's addresses. It is there while any port is mapped, and ends with the process.
const TableName = "vrouter-nodeport"

const (
	// retryInterval is how often what failed is tried again.
	retryInterval = time.Second
	// chunk is how many elements one message has, far below the 64 KiB of an attribute,
	// and batch how many are sent at once.
	chunk, batch = 256, 4096
)

// Table keeps the kernel's table in step with the mapped ports. Its methods may be called
// from any goroutine.
type Table struct {
	log *slog.Logger

	mu    sync.Mutex
	netns string // of the wanted ports
	want  []Port
	have  map[Port]struct{} // what the kernel has; nil with open
	open  *nftable.Table    // nil: there is none
	where string            // the namespace that it is in
	ns    vnetns.NsHandle   // the same, open while the table is
	maps  [2]*nftables.Set  // IPv4, IPv6
	err   error             // why the kernel has not what is wanted
}

// New returns a table without ports. Close ends it.
func New(log *slog.Logger) *Table { return &Table{log: log} }

// Set makes the ports, in order, those that the processes in a namespace reach, and
// changes what is different. What fails is logged, and tried again by Run. The list must
// not change afterwards.
func (t *Table) Set(namespace string, ports []Port) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.netns, t.want = namespace, ports
	t.apply()
}

// Run tries again what failed, until ctx ends.
func (t *Table) Run(ctx context.Context) error {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.mu.Lock()
			if t.err != nil || t.open != nil && t.moved() {
				t.apply()
			}
			t.mu.Unlock()
		}
	}
}

// Close removes the table from the kernel.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.remove()
}

// apply brings the kernel in step.
func (t *Table) apply() {
	err := t.update()
	if err != nil {
		err = errors.Join(err, t.remove()) // from the beginning, with the next try
		if t.err == nil || t.err.Error() != err.Error() {
			t.log.Warn("processes of this node do not reach the ports that floating IPs map at its own addresses", "error", err)
		}
	}
	t.err = err
}

func (t *Table) update() error {
	if t.open != nil && (len(t.want) == 0 || t.where != t.netns || t.moved()) {
		if err := t.remove(); err != nil {
			return err
		}
	}
	if len(t.want) == 0 {
		return nil
	}
	if t.open == nil {
		if err := t.make(); err != nil {
			return err
		}
	}
	want := make(map[Port]struct{}, len(t.want))
	var more, less []Port
	for _, p := range t.want {
		want[p] = struct{}{}
		if _, had := t.have[p]; !had {
			more = append(more, p)
		}
	}
	for p := range t.have {
		if _, stays := want[p]; !stays {
			less = append(less, p)
		}
	}
	// What goes goes first: a port may have another address to stand in now.
	if err := t.change(less, t.open.Conn.SetDeleteElements); err != nil {
		return fmt.Errorf("nftables table inet %s: remove ports: %w", TableName, err)
	}
	if err := t.change(more, t.open.Conn.SetAddElements); err != nil {
		return fmt.Errorf("nftables table inet %s: add ports: %w", TableName, err)
	}
	t.have = want
	return nil
}

// change sends the elements of ports in messages of a kind.
func (t *Table) change(ports []Port, send func(*nftables.Set, []nftables.SetElement) error) error {
	var elements [2][]nftables.SetElement
	waiting := 0
	flush := func(all bool, family int) error {
		if len(elements[family]) > 0 {
			if err := send(t.maps[family], elements[family]); err != nil {
				return err
			}
			waiting += len(elements[family])
			elements[family] = nil
		}
		if all || waiting >= batch {
			waiting = 0
			return t.open.Conn.Flush()
		}
		return nil
	}
	for _, p := range ports {
		family := 0
		if !p.Address.Is4() {
			family = 1
		}
		if elements[family] = append(elements[family], p.element()); len(elements[family]) == chunk {
			if err := flush(false, family); err != nil {
				return err
			}
		}
	}
	if err := flush(false, 0); err != nil {
		return err
	}
	return flush(true, 1)
}

// element is what the map of the port's family has for it. Each part of the key takes a
// whole number of 32-bit words.
func (p Port) element() nftables.SetElement {
	key := append(p.Address.AsSlice(), p.Protocol, 0, 0, 0, byte(p.Port>>8), byte(p.Port), 0, 0)
	return nftables.SetElement{Key: key, Val: p.StandIn.AsSlice()}
}

// make makes the table, with a map for each family.
func (t *Table) make() error {
	ns, err := netns.Open(t.netns)
	if err != nil {
		return err
	}
	open, err := nftable.Open(ns, nftables.TableFamilyINet, TableName)
	if err != nil {
		ns.Close()
		return err
	}
	t.open, t.ns, t.where, t.have = open, ns, t.netns, nil
	conn, table := open.Conn, open.Table
	accept := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest, Policy: &accept,
	})
	for family, kind := range [2]nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIP6Addr} {
		key, err := nftables.ConcatSetType(kind, nftables.TypeInetProto, nftables.TypeInetService)
		if err != nil {
			return err
		}
		set := &nftables.Set{Table: table, Name: [2]string{"ports4", "ports6"}[family], IsMap: true, Concatenation: true, KeyType: key, DataType: kind}
		if err := conn.AddSet(set, nil); err != nil {
			return err
		}
		t.maps[family] = set
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule(set, family)})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("nftables table inet %s: %w (needs nf_tables, nft_nat and nf_conntrack in the kernel)", TableName, err)
	}
	return nil
}

// rule sends packets to the address that the map of a family has for their destination,
// protocol and port.
func rule(set *nftables.Set, family int) []expr.Any {
	proto, at, length := byte(unix.NFPROTO_IPV4), uint32(16), uint32(4)
	if family == 1 {
		proto, at, length = unix.NFPROTO_IPV6, 24, 16
	}
	const word = 4
	first := uint32(unix.NFT_REG32_00)
	next := first + length/word
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{proto}},
		&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: length},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: first, DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetID: set.ID, SetName: set.Name},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(proto), RegAddrMin: unix.NFT_REG_1},
	}
}

// moved reports whether the namespace's name stands for another one now.
func (t *Table) moved() bool {
	if t.where == "" {
		return false
	}
	now, err := netns.Open(t.where)
	if err != nil {
		return true
	}
	defer now.Close()
	return !now.Equal(t.ns)
}

// remove takes the table away, if there is one.
func (t *Table) remove() error {
	if t.open == nil {
		return nil
	}
	err := t.open.Close()
	t.ns.Close()
	t.open, t.have = nil, nil
	return err
}
