//go:build linux

// Package nftable makes nftables tables that end with the process that made them,
// however it ends: the kernel removes them when their netlink socket is closed. Nobody
// else can delete them meanwhile, and nothing of them is left for a later process.
package nftable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/google/nftables"
	mdnetlink "github.com/mdlayher/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// owner is NFT_TABLE_F_OWNER of <linux/netfilter/nf_tables.h>, Linux 5.12.
const owner = 2

// ErrExists says that there is a table of that name, another process's.
var ErrExists = errors.New("another process has it")

// Table is an empty table of ours. It belongs to whoever opened it, one goroutine at a
// time.
type Table struct {
	// Conn is the socket that owns the table, to add chains and rules by; Flush sends them.
	Conn *nftables.Conn
	// Table names it for Conn.
	Table *nftables.Table
}

// Open makes a table of a family in a namespace. The error says what the kernel lacks;
// it wraps ErrExists where there is such a table.
func Open(ns vnetns.NsHandle, family nftables.TableFamily, name string) (*Table, error) {
	// The library does not write table flags, so the table is made here, on the
	// library's own socket: an owned table obeys no other.
	var socket *mdnetlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(ns)),
		nftables.WithSockOptions(func(c *mdnetlink.Conn) error { socket = c; return nil }))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	t := &Table{Conn: conn, Table: &nftables.Table{Name: name, Family: family}}
	if err := t.own(socket); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// own makes the table, which lives as long as the socket.
func (t *Table) own(socket *mdnetlink.Conn) error {
	attributes, err := mdnetlink.MarshalAttributes([]mdnetlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(t.Table.Name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, owner)},
	})
	if err != nil {
		return fmt.Errorf("nftables table %s: %w", t.Table.Name, err)
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
			append(header(byte(t.Table.Family), 0), attributes...)),
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
		return fmt.Errorf("nftables table %s is there: %w", t.Table.Name, ErrExists)
	}
	return fmt.Errorf("nftables table %s: %w (needs nf_tables in the kernel, and Linux 5.12 for a table with an owner)", t.Table.Name, err)
}

// Close removes the table.
func (t *Table) Close() error {
	if err := t.Conn.CloseLasting(); err != nil {
		return fmt.Errorf("close nftables: %w", err)
	}
	return nil
}
