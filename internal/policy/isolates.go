package policy

// Isolates reports whether a security policy closes the pods of an identity in a
// direction: the namespace tier selects them, or a rule of another tier denies
// them something. What reaches them, or leaves them, needs a rule that allows it.
// It is for traffic that no rule can name, broadcast and multicast.
func (s *Set) Isolates(d Direction, identity uint32) bool {
	dir := &s.securityTable().ingress
	if d == Egress {
		dir = &s.securityTable().egress
	}
	if len(dir.tiers[TierNamespace].subjectsOf[identity]) > 0 {
		return true
	}
	for tier := range dir.tiers {
		t := &dir.tiers[tier]
		for _, i := range t.subjectsOf[identity] {
			if t.subjects[i].denies {
				return true
			}
		}
	}
	return false
}
