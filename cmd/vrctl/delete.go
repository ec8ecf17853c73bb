package main

import (
	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func (a *app) deleteCommand() *cobra.Command {
	var dryRun, ignoreAbsent bool
	cmd := &cobra.Command{
		Use:   "delete KIND NAME...",
		Short: "Delete resources",
		Example: `  vrctl delete fip web
  vrctl delete vmi web-1 web-2
  vrctl delete vn pods --dry-run`,
		Long: `Deletes resources of one kind in one transaction. What others still refer to is not deleted: the answer
names who does.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError("delete needs a kind and a name").try("vrctl delete fip web")
			}
			return nil
		},
		ValidArgsFunction: a.completeResources,
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := parseKind(args[0])
			if err != nil {
				return err
			}
			agent, err := a.connect()
			if err != nil {
				return err
			}
			request := &vrouterv1.ApplyRequest{DryRun: dryRun}
			for _, name := range args[1:] {
				request.Deletes = append(request.Deletes, &vrouterv1.ResourceKey{Kind: kind, Name: name})
			}
			response, err := agent.Apply(cmd.Context(), request)
			if err != nil {
				return err
			}
			if err := a.printApplied(response); err != nil || ignoreAbsent {
				return err
			}
			return absent(response)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be deleted, but delete nothing")
	cmd.Flags().BoolVar(&ignoreAbsent, "ignore-not-found", false, "succeed also when a resource does not exist")
	return cmd
}

// absent reports the resources that were to be deleted and did not exist.
func absent(response *vrouterv1.ApplyResponse) error {
	for _, r := range response.GetResults() {
		if r.GetOutcome() == vrouterv1.ResourceResult_NOT_FOUND {
			return notFound("there is no %s %q", r.GetKey().GetKind(), r.GetKey().GetName()).try("vrctl get " + r.GetKey().GetKind())
		}
	}
	return nil
}

// parseKind reads a kind as users type it.
func parseKind(typed string) (string, error) {
	if kind, ok := statefile.ParseKind(typed); ok {
		return kind, nil
	}
	if near := statefile.SuggestKind(typed); near != "" {
		return "", usageError("there is no kind %q", typed).try("did you mean " + near + "?")
	}
	return "", usageError("there is no kind %q", typed).try("one of " + kindHelp)
}

// kindHelp names the kinds with their short forms.
const kindHelp = "VirtualNetwork (vn), VirtualMachineInterface (vmi), InstanceIP (iip), FloatingIP (fip), LoadBalancer (lb), NetworkPolicy (np), AddressSet (as), SecurityPolicy (sp), Route, Fabric, Attachment (att)"
