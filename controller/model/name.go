package model

import "github.com/vrouter-go/vrouter/internal/naming"

// ResourceName makes the name of a resource from the names that it is about,
// NAMESPACE:NAME:part.
func ResourceName(parts ...string) string { return naming.Join(parts...) }
