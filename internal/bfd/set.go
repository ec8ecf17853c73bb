//go:build linux

package bfd

import (
	"errors"
	"fmt"
	"time"
)

// Set makes the sessions those with exactly these peers. A peer that was there before
// with the same name, addresses and kind keeps its session: other intervals are
// negotiated while it stays up. The others' sessions end, and their peers are told
// so. Where an error is returned nothing has changed: it says all that is wrong with
// the peers, or which socket could not be opened.
func (s *Speaker) Set(peers []Peer) error {
	wanted, err := completed(peers)
	if err != nil {
		return err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	unused, err := s.replace(wanted)
	closeAll(unused)
	signal(s.early)
	return err
}

// replace brings the sessions to the wanted peers and returns the listeners that
// nobody needs any more.
func (s *Speaker) replace(wanted map[string]Peer) ([]*listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, ErrClosed
	}
	fresh, opened, err := s.open(wanted)
	if err != nil {
		return opened, err
	}
	for name, m := range s.members {
		p, ok := wanted[name]
		switch {
		case !ok:
			s.drop(m)
			delete(s.changes, name)
			s.order = without(s.order, name)
		case m.peer.identity() != p.identity():
			s.drop(m)
		default:
			m.peer = p
			m.session.configure(p.timing())
		}
	}
	for _, m := range fresh {
		s.members[m.peer.Name] = m
		s.table.add(m)
	}
	for _, l := range opened {
		s.listeners[l.entrance] = l
		if s.running {
			s.read(l)
		}
	}
	return s.unused(), nil
}

// completed checks the peers and returns them by name.
func completed(peers []Peer) (map[string]Peer, error) {
	var errs []error
	byName, byPath := map[string]Peer{}, map[Peer]string{}
	for _, p := range peers {
		p = p.complete()
		errs = append(errs, p.check())
		if _, twice := byName[p.Name]; twice {
			errs = append(errs, fmt.Errorf("BFD peer %q is there twice; names must differ", p.Name))
		}
		byName[p.Name] = p
		way := p.identity()
		way.Name = ""
		if other, twice := byPath[way]; twice {
			errs = append(errs, fmt.Errorf("BFD peers %q and %q have the same addresses %s and %s; one session serves both", other, p.Name, p.Local, p.Remote))
		}
		byPath[way] = p.Name
	}
	return byName, errors.Join(errs...)
}

// open opens the sockets that the wanted peers need in addition. With an error no
// sender stays open, and the caller closes the listeners.
func (s *Speaker) open(wanted map[string]Peer) (fresh []*member, opened []*listener, err error) {
	ports := map[uint16]bool{}
	there := map[entrance]bool{}
	for e := range s.listeners {
		there[e] = true
	}
	for _, m := range s.members {
		ports[m.out.port] = true
	}
	defer func() {
		if err == nil {
			return
		}
		for _, m := range fresh {
			m.out.close()
		}
	}()
	for name, p := range wanted {
		if m := s.members[name]; m != nil && m.peer.identity() == p.identity() {
			continue
		}
		if e := p.entrance(); !there[e] {
			l, err := openListener(s.netns, e)
			if err != nil {
				return fresh, opened, err
			}
			opened, there[e] = append(opened, l), true
		}
		link, err := linkIndex(s.netns, p.Local.Zone())
		if err != nil {
			return fresh, opened, fmt.Errorf("BFD peer %q: zone of %s: %w", name, p.Local, err)
		}
		out, err := openSender(s.netns, p, link, func(port uint16) bool { return ports[port] })
		if err != nil {
			return fresh, opened, err
		}
		ports[out.port] = true
		fresh = append(fresh, s.newMember(p, link, out))
	}
	return fresh, opened, nil
}

// drop ends a session. The peer is told once: if that packet is lost, its detection
// time tells it.
func (s *Speaker) drop(m *member) {
	s.send(m, m.session.close(time.Now()))
	s.note(m)
	m.out.close()
	s.table.remove(m)
	delete(s.members, m.peer.Name)
}

// unused takes out the listeners that no peer needs, for the caller to close.
func (s *Speaker) unused() (list []*listener) {
	for e, l := range s.listeners {
		needed := false
		for _, m := range s.members {
			needed = needed || m.peer.entrance() == e
		}
		if !needed {
			list = append(list, l)
			delete(s.listeners, e)
		}
	}
	return list
}

// closeAll closes listeners. It waits for their readers, so mu is not held.
func closeAll(list []*listener) {
	for _, l := range list {
		l.file.Close()
	}
}

// without returns list without an element.
func without(list []string, name string) []string {
	kept := list[:0]
	for _, n := range list {
		if n != name {
			kept = append(kept, n)
		}
	}
	return kept
}
