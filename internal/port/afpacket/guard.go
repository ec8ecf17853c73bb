//go:build linux

package afpacket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdnetlink "github.com/mdlayher/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// From <linux/netfilter/nf_tables.h>; the first is newer than x/sys.
const (
	tableOwner = 2 // NFT_TABLE_F_OWNER, Linux 5.12
	register   = unix.NFT_REG_1
)

// guard is the nftables table that keeps our frames from the kernel's own stack. It
// belongs to its netlink socket: when that is closed, by us or by the end of the
// process, however it ends, the kernel removes the table.
type guard struct{ conn *nftables.Conn }

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
	// The library does not write table flags, so the table is made here, on the
	// library's own socket: an owned table obeys no other.
	var socket *mdnetlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns)),
		nftables.WithSockOptions(func(c *mdnetlink.Conn) error { socket = c; return nil }))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	g := &guard{conn: conn}
	table := &nftables.Table{Name: tableName(device), Family: nftables.TableFamilyNetdev}
	if err := ownTable(socket, table.Name); err != nil {
		return nil, errors.Join(err, g.close())
	}
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

// ownTable makes a netdev table that lives as long as the socket.
func ownTable(socket *mdnetlink.Conn, name string) error {
	attributes, err := mdnetlink.MarshalAttributes([]mdnetlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, tableOwner)},
	})
	if err != nil {
		return fmt.Errorf("nftables table %s: %w", name, err)
	}
	// struct nfgenmsg: family, version, resource id in network byte order.
	header := func(family byte, resource uint16) []byte {
		return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	}
	request := func(kind int, flags mdnetlink.HeaderFlags, data []byte) mdnetlink.Message {
		return mdnetlink.Message{
			Header: mdnetlink.Header{Type: mdnetlink.HeaderType(kind), Flags: mdnetlink.Request | flags}, Data: data,
		}
	}
	if _, err = socket.SendMessages([]mdnetlink.Message{
		request(unix.NFNL_MSG_BATCH_BEGIN, 0, header(0, unix.NFNL_SUBSYS_NFTABLES)),
		request(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, mdnetlink.Acknowledge|mdnetlink.Create|mdnetlink.Excl,
			append(header(unix.NFPROTO_NETDEV, 0), attributes...)),
		request(unix.NFNL_MSG_BATCH_END, 0, header(0, unix.NFNL_SUBSYS_NFTABLES)),
	}); err == nil {
		_, err = socket.Receive()
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrExist), errors.Is(err, os.ErrPermission):
		// EPERM says that the table is another socket's: the capability has been shown
		// by SO_RCVBUFFORCE.
		return fmt.Errorf("nftables table netdev %s is there: %w", name, ErrBusy)
	}
	return fmt.Errorf("nftables table netdev %s: %w (needs nf_tables in the kernel, and Linux 5.12 for a table with an owner)", name, err)
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
	if err := g.conn.CloseLasting(); err != nil {
		return fmt.Errorf("close nftables: %w", err)
	}
	return nil
}
