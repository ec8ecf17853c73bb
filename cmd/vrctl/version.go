package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
)

// versionTime bounds the question to the agent: its version is a courtesy.
const versionTime = 2 * time.Second

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the versions of vrctl and of the agent",
		Example: `  vrctl version`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			agent, reason := a.agentVersion(cmd.Context())
			if a.output == "json" || a.output == "yaml" {
				return a.printRaw([]byte(fmt.Sprintf(`{"vrctl":%q,"agent":%q}`, buildVersion(), agent)))
			}
			if reason != "" {
				agent += " (" + reason + ")"
			}
			_, err := fmt.Fprintf(a.out, "vrctl  %s\nagent  %s\n", buildVersion(), agent)
			return err
		},
	}
}

// agentVersion asks the agent; "unknown" with the reason when it does not answer.
func (a *app) agentVersion(ctx context.Context) (version, reason string) {
	agent, err := a.connect()
	if err != nil {
		return "unknown", err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	status, err := agent.Status(ctx)
	if err != nil {
		return "unknown", err.Error()
	}
	return unknown(status.GetVersion()), ""
}

// buildVersion is the module's version, or the commit it was built from.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (version == "" || version == "(devel)") {
			return s.Value
		}
	}
	return unknown(version)
}
