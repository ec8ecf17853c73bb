package service

import (
	"cmp"
	"slices"
	"time"

	"github.com/vrouter-go/vrouter/controller/model"
)

// Claims says which service has what several want. Nobody hinders two Services from naming
// the same external address and port, and the agent takes no state in which both serve it:
// the older one has it, the first by name among those of one age.
//
// The zero value is ready. It belongs to the goroutine that compiles.
type Claims struct {
	wanted    map[model.Name][]Frontend
	claimants map[Frontend][]claimant // in the order in which they have it
}

type claimant struct {
	service model.Name
	created time.Time
}

// Set notes what a service wants to have, nothing once it is gone, and returns the other
// services that gain or lose something by it.
func (c *Claims) Set(service model.Name, created time.Time, wanted []Frontend) (others []model.Name) {
	if c.wanted == nil {
		c.wanted, c.claimants = map[model.Name][]Frontend{}, map[Frontend][]claimant{}
	}
	before := map[Frontend]model.Name{}
	note := func(f Frontend) {
		if _, ok := before[f]; !ok {
			before[f], _ = c.owner(f)
		}
	}
	for _, f := range c.wanted[service] {
		note(f)
		list := slices.DeleteFunc(c.claimants[f], func(o claimant) bool { return o.service == service })
		if c.claimants[f] = list; len(list) == 0 {
			delete(c.claimants, f)
		}
	}
	for _, f := range wanted {
		note(f)
		list := append(c.claimants[f], claimant{service, created})
		slices.SortFunc(list, func(a, b claimant) int {
			return cmp.Or(a.created.Compare(b.created), model.CompareNames(a.service, b.service))
		})
		c.claimants[f] = list
	}
	if c.wanted[service] = wanted; len(wanted) == 0 {
		delete(c.wanted, service)
	}
	for f, old := range before {
		now, _ := c.owner(f)
		for _, n := range [...]model.Name{old, now} {
			if old != now && n != service && n != (model.Name{}) && !slices.Contains(others, n) {
				others = append(others, n)
			}
		}
	}
	return others
}

// Owns reports whether a service is the one that has a frontend.
func (c *Claims) Owns(service model.Name, f Frontend) bool {
	owner, ok := c.owner(f)
	return ok && owner == service
}

func (c *Claims) owner(f Frontend) (model.Name, bool) {
	if list := c.claimants[f]; len(list) > 0 {
		return list[0].service, true
	}
	return model.Name{}, false
}
