//go:build linux

package afpacket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vrouter-go/vrouter/internal/nftable"
)

// register is what rules compare in.
const register = unix.NFT_REG_1

// guard is the nftables table that keeps our frames from the kernel's own stack. It
// ends with the process, however it ends.
type guard struct{ table *nftable.Table }

// tableName returns the name of the guard of a device.
func tableName(device string) string {
	plain := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.", r) {
			return r
		}
		return '_'
	}
	return "vrouter-" + strings.Map(plain, device)
}

// newGuard installs the guard on the device in a namespace.
func newGuard(ns vnetns.NsHandle, device string) (*guard, error) {
	owned, err := nftable.Open(ns, nftables.TableFamilyNetdev, tableName(device))
	if errors.Is(err, nftable.ErrExists) {
		return nil, fmt.Errorf("nftables table netdev %s is there: %w", tableName(device), ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	g, conn, table := &guard{owned}, owned.Conn, owned.Table
	// The first of all ingress chains: no other may send our frames elsewhere.
	chain := conn.AddChain(&nftables.Chain{
		Name: "ingress", Table: table, Type: nftables.ChainTypeFilter, Device: device,
		Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFirst,
	})
	for _, rule := range guardRules() {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	}
	if err := conn.Flush(); err != nil {
		return nil, errors.Join(fmt.Errorf("nftables table netdev %s: add the ingress chain: %w (needs nf_tables and nft_meta, nft_payload, nft_counter in the kernel)", table.Name, err), g.close())
	}
	return g, nil
}

// guardRules returns what takeOurs says, in nftables' words: keep the exceptions,
// drop the rest of what is ours, let all else pass.
func guardRules() [][]expr.Any {
	var rules [][]expr.Any
	for _, e := range kept {
		rule := isEtherType(e.etherType)
		for _, f := range e.fields {
			rule = append(rule, matchField(f)...)
		}
		rules = append(rules, append(rule, &expr.Verdict{Kind: expr.VerdictAccept}))
	}
	for _, etherType := range etherTypes {
		rules = append(rules, append(isEtherType(etherType),
			&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.PACKET_HOST}},
			&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}))
	}
	return rules
}

// isEtherType matches untagged frames: where the kernel has taken a VLAN tag off,
// nftables shows the link-layer header as if it were still there.
func isEtherType(etherType uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseLLHeader, Offset: etherTypeAt, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.BigEndian.AppendUint16(nil, etherType)},
	}
}

func matchField(f field) []expr.Any {
	value := func(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v)[2-f.size:] }
	match := []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f.at, Len: uint32(f.size)},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(f.size), Mask: value(f.mask), Xor: value(0)},
	}
	if f.low == f.high { // what `nft list` shows is easier to read
		return append(match, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: value(f.low)})
	}
	return append(match, &expr.Range{Op: expr.CmpOpEq, Register: register, FromData: value(f.low), ToData: value(f.high)})
}

// close gives the kernel its frames back.
func (g *guard) close() error {
	return g.table.Close()
}
