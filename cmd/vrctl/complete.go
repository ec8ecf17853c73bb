package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// completionTime bounds what a user waits for behind the TAB key.
const completionTime = time.Second

// completeResources completes KIND and then names of that kind from the live agent.
func (a *app) completeResources(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return append([]string{"vn", "vmi", "iip", "fip", "lb", "np", "sp"}, statefile.Kinds()...), cobra.ShellCompDirectiveNoFileComp
	}
	kind, ok := statefile.ParseKind(args[0])
	if !ok {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.names(cmd.Context(), kind, (*vrouterv1.Resource).GetName), cobra.ShellCompDirectiveNoFileComp
}

// completeNames completes a flag with the names of a kind, and some that always exist.
func (a *app) completeNames(kind string, name func(*vrouterv1.Resource) string, always ...string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return append(a.names(cmd.Context(), kind, name), always...), cobra.ShellCompDirectiveNoFileComp
	}
}

// names asks the agent; without one there is nothing to complete, and no error that would spoil the command line.
func (a *app) names(ctx context.Context, kind string, name func(*vrouterv1.Resource) string) []string {
	agent, err := a.connect()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	resources, _, err := agent.List(ctx, &vrouterv1.ListRequest{Kinds: []string{kind}})
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range resources {
		names = append(names, name(r))
	}
	return names
}
