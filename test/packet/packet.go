// Package packet writes and reads frames as one line of text, for tests that a
// network engineer can read:
//
//	10.0.0.4:30 > 198.51.100.9:80 tcp syn ttl=64
//	[fd00::4]:30 > [fd00::9]:53 udp len=100
//	10.0.0.4 > 10.0.0.1 icmp echo-request id=5
//	10.0.0.1 > 10.0.0.4 icmp time-exceeded [10.0.0.4:30 > 198.51.100.9:80 tcp syn ttl=1]
//	10.0.0.4:30 > 10.0.0.9:53 udp frag=7:0+1480 of=3008
//	arp who-has 10.0.0.1 tell 10.0.0.4
//	nd who-has fd00::1 tell fd00::4
//
// Frames are made and decoded by gopacket, and checksums are verified by a sum of
// this package's own, so that nothing here can repeat a mistake of the router's.
package packet

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Spec is one line, taken apart.
type Spec struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Proto            string // tcp, udp, sctp, icmp, arp, nd, or a number
	Words            []string
	Options          map[string]string
	Quote            *Spec // of an ICMP error
}

// Parse reads a line.
func Parse(line string) (*Spec, error) {
	line = strings.TrimSpace(line)
	s := &Spec{Options: map[string]string{}}
	if i := strings.Index(line, " ["); i > 0 && strings.HasSuffix(line, "]") {
		quote, err := Parse(line[i+2 : len(line)-1])
		if err != nil {
			return nil, err
		}
		s.Quote, line = quote, line[:i]
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil, fmt.Errorf("empty packet")
	}
	if words[0] == "arp" || words[0] == "nd" {
		return s.neighbour(words)
	}
	if len(words) < 4 || words[1] != ">" {
		return nil, fmt.Errorf("%q: want SRC > DST PROTOCOL and so on", line)
	}
	var err error
	if s.Src, s.SrcPort, err = endpoint(words[0]); err != nil {
		return nil, err
	}
	if s.Dst, s.DstPort, err = endpoint(words[2]); err != nil {
		return nil, err
	}
	s.Proto = words[3]
	s.rest(words[4:])
	return s, nil
}

// neighbour reads "arp who-has A tell B" and "arp A is-at MAC".
func (s *Spec) neighbour(words []string) (*Spec, error) {
	if len(words) < 4 {
		return nil, fmt.Errorf("%v: want %s who-has ADDR tell ADDR, or %s ADDR is-at MAC", words, words[0], words[0])
	}
	var err error
	s.Proto = words[0]
	switch {
	case words[1] == "who-has":
		if s.Dst, err = netip.ParseAddr(words[2]); err == nil {
			s.Src, err = netip.ParseAddr(words[4])
		}
		s.Words = []string{"who-has"}
		s.rest(words[5:])
	case words[2] == "is-at":
		s.Src, err = netip.ParseAddr(words[1])
		s.Dst = s.Src
		s.Words = []string{"is-at"}
		s.Options["mac"] = words[3]
		s.rest(words[4:])
	default:
		err = fmt.Errorf("%v: neither who-has nor is-at", words)
	}
	return s, err
}

func (s *Spec) rest(words []string) {
	for _, w := range words {
		if key, value, ok := strings.Cut(w, "="); ok {
			s.Options[key] = value
		} else {
			s.Words = append(s.Words, w)
		}
	}
}

// endpoint reads ADDR, ADDR:PORT or [ADDR]:PORT.
func endpoint(text string) (netip.Addr, uint16, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return a, 0, nil
	}
	ap, err := netip.ParseAddrPort(text)
	return ap.Addr(), ap.Port(), err
}

func (s *Spec) has(word string) bool {
	for _, w := range s.Words {
		if w == word {
			return true
		}
	}
	return false
}

// number reads an option; fallback where it is not given.
func (s *Spec) number(key string, fallback int) int {
	text, ok := s.Options[key]
	if !ok {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(fmt.Sprintf("option %s=%s: %v", key, text, err))
	}
	return n
}

func (s *Spec) mac(key string, fallback net.HardwareAddr) net.HardwareAddr {
	text, ok := s.Options[key]
	if !ok {
		return fallback
	}
	m, err := net.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return m
}

// Payload is what builders fill a transport payload with, from a position in it:
// bytes that tell where they belong.
func Payload(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((from + i) * 7)
	}
	return b
}
