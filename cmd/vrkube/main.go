// Command vrkube is the Kubernetes control plane of one node: it follows the
// cluster and keeps the node's agent in step with it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := root().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vrkube:", err)
		os.Exit(exitCode(err))
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "vrkube",
		Short: "The Kubernetes control plane of a vRouter: Services, endpoints, pods and policies become its state",
		Long: `Example:
  vrkube run --node node-1 --kubeconfig /etc/vrouter/vrkube.kubeconfig

vrkube runs on each node beside vrouter. It follows the cluster's objects and keeps
the node's agent in step with them; it never touches a packet, and while it is away
everything is forwarded as before.`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(runCommand(), ingressCommand(), versionCommand())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of vrkube",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "vrkube  %s\n", version())
			return err
		},
	}
}

// version is that of the build, or the commit it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (info.Main.Version == "" || info.Main.Version == "(devel)") {
			return s.Value
		}
	}
	if info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// Exit codes, as those of vrouter and vrctl.
const (
	exitError = 1
	exitUsage = 2
)

// exitCode tells a wrong command line from a failure.
func exitCode(err error) int {
	text := err.Error()
	for _, usage := range [...]string{"unknown command", "unknown flag", "unknown shorthand", "required flag", "flag needs an argument", "invalid argument", "--"} {
		if strings.HasPrefix(text, usage) {
			return exitUsage
		}
	}
	return exitError
}
