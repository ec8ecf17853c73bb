package nexthop

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
)

// State says whether a member takes new flows (KEP-1669).
type State uint8

const (
	// Ready members take new flows.
	Ready State = iota
	// Serving members are leaving but still answer; they take new flows only while
	// no member is Ready.
	Serving
	// Draining members finish the flows they have and take no new ones.
	Draining
	// LocalOnly members take new flows only where SelectLocal chooses: topology
	// leaves them out elsewhere.
	LocalOnly

	numStates
)

// String returns the state's name in lower case.
func (s State) String() string {
	if s >= numStates {
		return "state(" + strconv.Itoa(int(s)) + ")"
	}
	return [numStates]string{"ready", "serving", "draining", "local-only"}[s]
}

// Member is one backend of a group. 32 bytes, no pointers.
type Member struct {
	// ID names the member for as long as it lives, on every node; given by the
	// agent, unique in its group. Sessions keep it.
	ID uint32
	// Weight is the member's share, 1 to 65535, relative to the others'.
	Weight uint16
	State  State
	// NextHop leads to the member.
	NextHop ID
	// Address is the member's own address, IPv4 v4-mapped. Zero: the member of a
	// route, to which packets go with the destination they have.
	Address [16]byte
	// Port is the member's target port; 0 keeps the mapping's.
	Port uint16
	// Interface is the port index of the member's VMI on this node; 0 if it is
	// elsewhere.
	Interface uint16
}

// MaxMembers is the most members a group can have.
const MaxMembers = 65535

// Group is an ECMP group: members with stable ids, of which Select picks one by
// weighted rendezvous. It never changes, holds no pointers to its members'
// owners, and any number of goroutines may read it. The zero value has no
// members.
type Group struct {
	members []Member // by ID
	runners []runner // the members that take new flows; by team in a wide group
	teams   []runner // of a wide group, else nil
	local   []uint32 // places of the members on this node, in whatever state
	equal   bool     // all runners have the same weight
}

// NewGroup builds a group. It copies members, in any order. A group without
// members is valid and refuses every flow.
func NewGroup(members []Member) (*Group, error) {
	if len(members) > MaxMembers {
		return nil, errors.New("nexthop: group has " + strconv.Itoa(len(members)) + " members, at most " + strconv.Itoa(MaxMembers) + " fit")
	}
	g := &Group{members: slices.Clone(members)}
	slices.SortFunc(g.members, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	for i, m := range g.members {
		switch {
		case i > 0 && g.members[i-1].ID == m.ID:
			return nil, memberError(m.ID, "appears twice; give each member its own id")
		case m.Weight == 0:
			return nil, memberError(m.ID, "has weight 0; use 1 to 65535, or state draining to take no new flows")
		case m.State >= numStates:
			return nil, memberError(m.ID, "has an unknown state; use ready, serving, draining or local-only")
		}
	}
	for i, m := range g.members {
		if m.Interface != 0 {
			g.local = append(g.local, uint32(i))
		}
	}
	g.runners = runnersOf(g.members)
	g.equal = !slices.ContainsFunc(g.runners, func(r runner) bool { return r.weight != g.runners[0].weight })
	if len(g.runners) > narrow {
		g.teams = byTeam(g.runners)
	}
	return g, nil
}

// runnersOf returns those who take new flows: the ready members, else the
// serving ones, else nobody (KEP-1669).
func runnersOf(members []Member) []runner {
	for _, state := range [...]State{Ready, Serving} {
		var runners []runner
		for i, m := range members {
			if m.State == state {
				runners = append(runners, runner{seed: memberSeed(m.ID), weight: uint32(m.Weight), index: uint32(i)})
			}
		}
		if runners != nil {
			return runners
		}
	}
	return nil
}

func memberError(id uint32, what string) error {
	return errors.New("nexthop: member " + strconv.FormatUint(uint64(id), 10) + " " + what)
}

// Len is the number of members in any state.
func (g *Group) Len() int { return len(g.members) }

// Usable is the number of members that Select chooses from.
func (g *Group) Usable() int { return len(g.runners) }

// Member returns the i-th member in the order of ids, 0 ≤ i < Len.
func (g *Group) Member(i int) Member { return g.members[i] }

// Find returns the member with this id in whatever state it is, so that a live
// session keeps its member; false means that it has left the group.
func (g *Group) Find(id uint32) (Member, bool) {
	lo, hi := 0, len(g.members)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if g.members[mid].ID < id {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(g.members) && g.members[lo].ID == id {
		return g.members[lo], true
	}
	return Member{}, false
}

// Select picks the member for a new flow; index is for Member. False means that
// nobody takes new flows: the flow is refused.
func (g *Group) Select(hash uint64) (index int, ok bool) {
	n := len(g.runners)
	if n == 0 {
		return 0, false
	}
	lo, hi := 0, n
	if n > narrow && hash%ramp < uint64(n-narrow) {
		team := firstOfWeighted(g.teams, hash)
		lo = int(g.teams[team].index)
		if team+1 < len(g.teams) {
			hi = int(g.teams[team+1].index)
		}
	}
	if g.equal {
		lo += firstOfEqual(g.runners[lo:hi], hash)
	} else {
		lo += firstOfWeighted(g.runners[lo:hi], hash)
	}
	return int(g.runners[lo].index), true
}

// SelectLocal is Select among the members on this node: those whose Interface is
// not 0. It takes as long as there are of these.
func (g *Group) SelectLocal(hash uint64) (index int, ok bool) {
	for _, serving := range [...]bool{false, true} {
		var bestTime, bestWeight uint64
		for _, i := range g.local {
			m := &g.members[i]
			if m.State == Draining || (m.State == Serving) != serving {
				continue
			}
			t, weight := negLog2(draw(hash, memberSeed(m.ID))), uint64(m.Weight)
			if !ok || t*bestWeight < bestTime*weight {
				bestTime, bestWeight, index, ok = t, weight, int(i), true
			}
		}
		if ok {
			return index, true
		}
	}
	return 0, false
}

// Through returns the member on this node that is reached by a next hop, in
// whatever state it is: who sent a flow to it has chosen it.
func (g *Group) Through(hop ID) (Member, bool) {
	for _, i := range g.local {
		if g.members[i].NextHop == hop {
			return g.members[i], true
		}
	}
	return Member{}, false
}
