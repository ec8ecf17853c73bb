//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
)

// VRCtl asks the node's vrouter by vrctl and returns what that writes to its output. An
// error has what it says on its error output.
func (v *VRouterNode) VRCtl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(v.n.c.o.Programs, "vrctl"), append([]string{"--address", v.socket()}, args...)...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("vrctl %v: %w: %s", args, err, exit.Stderr)
	}
	return string(out), err
}
