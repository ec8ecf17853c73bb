package bfd

// discard is the reason why a received packet changed nothing: a closed list, one
// for each check of RFC 5880 §6.8.6 and of the RFCs for the ways a packet comes.
type discard uint8

const (
	discardNone discard = iota
	discardVersion
	discardLength
	discardMultiplier
	discardMultipoint
	discardMyDiscriminator
	discardYourDiscriminator
	discardState
	discardNoSession
	discardAddress
	discardTTL
	discardAuthentication
	discardAdminDown
	discards // how many there are
)

func (d discard) String() string {
	names := [discards]string{
		discardNone:              "none",
		discardVersion:           "version",
		discardLength:            "length",
		discardMultiplier:        "multiplier",
		discardMultipoint:        "multipoint",
		discardMyDiscriminator:   "my-discriminator",
		discardYourDiscriminator: "your-discriminator",
		discardState:             "state",
		discardNoSession:         "no-session",
		discardAddress:           "address",
		discardTTL:               "ttl",
		discardAuthentication:    "authentication",
		discardAdminDown:         "admin-down",
	}
	return names[d]
}
