//go:build linux

package tap

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// Discard deletes the device that a Create of name left in our own namespace or in
// another, under whatever name, when its process was killed and nobody will create it
// again. A device that a process holds stays, and a namespace that is gone has none.
func Discard(name, path string) error {
	spaces := []string{""}
	if path != "" {
		spaces = append(spaces, path)
	}
	var errs []error
	for _, s := range spaces {
		if err := discardIn(s, name); err != nil {
			errs = append(errs, fmt.Errorf("tap %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func discardIn(path, name string) error {
	sp, err := openSpace(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, netns.ErrNotNamespace) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sp.close()
	links, err := dump(sp.h.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		t, ok := link.(*netlink.Tuntap)
		if !ok || link.Attrs().Alias != alias(name) || t.Queues+t.DisabledQueues > 0 {
			continue
		}
		if err := sp.h.LinkDel(link); err != nil && !isNotFound(err) {
			return fmt.Errorf("delete %s in network namespace %s: %w", link.Attrs().Name, netns.Path(path), err)
		}
	}
	return nil
}
