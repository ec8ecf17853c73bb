package policy

// Isolates reports whether a security policy selects the pods of an identity for a
// direction: what reaches them, or leaves them, needs a rule that allows it. It is
// for traffic that no rule can name, broadcast and multicast.
func (s *Set) Isolates(d Direction, identity uint32) bool {
	t := s.securityTable()
	if d == Egress {
		return len(t.egress.subjectsOf[identity]) > 0
	}
	return len(t.ingress.subjectsOf[identity]) > 0
}
