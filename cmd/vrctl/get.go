package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

func (a *app) getCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "get KIND|all [NAME...]",
		Short: "List desired state",
		Example: `  vrctl get vmi
  vrctl get fip web -o yaml        # as a state file, ready for vrctl apply
  vrctl get all -o wide
  vrctl get fip --watch`,
		Long: `Lists resources by kind and name. Kinds: ` + kindHelp + `.

-o yaml writes a state file, -o json one list of the same documents with owner and generation.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("get needs a kind, or all").try("vrctl get vmi; kinds: " + kindHelp)
			}
			return nil
		},
		ValidArgsFunction: a.completeResources,
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &vrouterv1.ListRequest{Names: args[1:]}
			if args[0] != "all" {
				kind, err := parseKind(args[0])
				if err != nil {
					return err
				}
				request.Kinds = []string{kind}
			}
			if follow {
				return a.watchResources(cmd.Context(), &vrouterv1.WatchRequest{Kinds: request.Kinds, Names: request.Names})
			}
			return a.getResources(cmd.Context(), args[0], request)
		},
	}
	cmd.Flags().BoolVarP(&follow, "watch", "w", false, "go on with each change as it happens")
	return cmd
}

// getResources lists what matches; typed is the kind as the user gave it.
func (a *app) getResources(ctx context.Context, typed string, request *vrouterv1.ListRequest) error {
	agent, err := a.connect()
	if err != nil {
		return err
	}
	resources, _, err := agent.List(ctx, request)
	if err != nil {
		return err
	}
	if err := a.printResources(resources, len(request.GetKinds()) > 0); err != nil {
		return err
	}
	for _, name := range request.GetNames() {
		if !slices.ContainsFunc(resources, func(r *vrouterv1.Resource) bool { return r.GetName() == name }) {
			kind := append(request.GetKinds(), "resource")[0]
			return notFound("there is no %s %q", kind, name).try("vrctl get " + typed)
		}
	}
	return nil
}

// printResources writes resources in the chosen format. oneKind: they are all of one kind, so the table needs no title.
func (a *app) printResources(resources []*vrouterv1.Resource, oneKind bool) error {
	switch a.output {
	case "yaml":
		out, err := statefile.Marshal(resources)
		if err != nil {
			return err
		}
		_, err = a.out.Write(out)
		return err
	case "json":
		list := make([]json.RawMessage, len(resources))
		for i, r := range resources {
			raw, err := statefile.MarshalJSON(r)
			if err != nil {
				return err
			}
			list[i] = raw
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return err
		}
		return a.printRaw(raw)
	}
	return a.printTables(resources, oneKind)
}

// printTables writes one table for each kind.
func (a *app) printTables(resources []*vrouterv1.Resource, oneKind bool) error {
	if len(resources) == 0 {
		_, err := fmt.Fprintln(a.err, "nothing found")
		return err
	}
	first := true
	for _, kind := range statefile.Kinds() {
		var rows []*vrouterv1.Resource
		for _, r := range resources {
			if statefile.Kind(r) == kind {
				rows = append(rows, r)
			}
		}
		if len(rows) == 0 {
			continue
		}
		if !oneKind {
			if !first {
				fmt.Fprintln(a.out)
			}
			fmt.Fprintln(a.out, kind)
		}
		first = false
		if err := printTable(a.out, resourceColumns(kind), rows, a.output == "wide"); err != nil {
			return err
		}
	}
	return nil
}

// watchResources prints one line for each event.
func (a *app) watchResources(ctx context.Context, request *vrouterv1.WatchRequest) error {
	agent, err := a.connect()
	if err != nil {
		return err
	}
	for event, err := range agent.Watch(ctx, request) {
		if ctx.Err() != nil {
			return nil // interrupted: the way a watch ends
		}
		if err == nil {
			err = a.printEvent(event)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printEvent(event *vrouterv1.WatchResponse) error {
	line := struct {
		Event      string          `json:"event"`
		Generation uint64          `json:"generation,string"`
		Kind       string          `json:"kind,omitempty"`
		Name       string          `json:"name,omitempty"`
		Resource   json.RawMessage `json:"resource,omitempty"`
	}{Generation: event.GetGeneration()}
	switch e := event.GetEvent().(type) {
	case *vrouterv1.WatchResponse_Upserted:
		raw, err := statefile.MarshalJSON(e.Upserted)
		if err != nil {
			return err
		}
		line.Event, line.Kind, line.Name, line.Resource = "UPSERTED", statefile.Kind(e.Upserted), e.Upserted.GetName(), raw
	case *vrouterv1.WatchResponse_Deleted:
		line.Event, line.Kind, line.Name = "DELETED", e.Deleted.GetKind(), e.Deleted.GetName()
	case *vrouterv1.WatchResponse_Synced:
		line.Event = "SYNCED"
	}
	if a.output == "table" || a.output == "wide" {
		text := fmt.Sprintf("%-6d %-8s %s %s", line.Generation, line.Event, line.Kind, line.Name)
		_, err := fmt.Fprintln(a.out, strings.TrimRight(text, " "))
		return err
	}
	raw, err := json.Marshal(line)
	if err != nil {
		return err
	}
	return a.printRawLine(raw)
}
