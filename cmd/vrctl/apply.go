package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/statefile"
	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// operator owns what Apply writes.
const operator = "operator"

// applyFlags are the flags of vrctl apply.
type applyFlags struct {
	files                     []string
	dryRun, prune, allowEmpty bool
	expected                  uint64
}

func (a *app) applyCommand() *cobra.Command {
	var f applyFlags
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|- [--dry-run] [--prune]",
		Short: "Make the node's state as state files say",
		Example: `  vrctl apply -f state.yaml
  vrctl apply -f /etc/vrouter/state.d --prune      # the directory is the whole truth
  vrctl apply -f state.yaml --dry-run              # what would change?
  generate-state | vrctl apply -f -`,
		Long: `Reads YAML or JSON documents (kind, name, spec) and applies all of them in one transaction, or none:
each wrong field is named with file:line:column and what would be right. A resource is replaced whole.

--prune also deletes resources that an operator applied earlier and that the files no longer hold. What
controllers own is never pruned.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.apply(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&f.files, "filename", "f", nil, "state file, directory of them, or - for standard input; may be repeated")
	flags.BoolVar(&f.dryRun, "dry-run", false, "check everything and say what would change, but change nothing")
	flags.BoolVar(&f.prune, "prune", false, "delete operator-owned resources that the files do not hold")
	flags.BoolVar(&f.allowEmpty, "allow-empty", false, "let --prune with files that hold nothing delete everything")
	flags.Uint64Var(&f.expected, "expect-generation", 0, "refuse when desired state is at another generation")
	return cmd
}

func (a *app) apply(cmd *cobra.Command, f applyFlags) error {
	if len(f.files) == 0 {
		return usageError("nothing to apply").try("vrctl apply -f state.yaml")
	}
	sources, err := statefile.Read(f.files, a.in)
	if err != nil {
		return err
	}
	agent, err := a.connect()
	if err != nil {
		return err
	}
	existing, _, err := agent.List(cmd.Context(), &vrouterv1.ListRequest{})
	if err != nil {
		return err
	}
	if f.prune {
		existing = keptByPrune(existing)
	}
	documents, err := statefile.Parse(sources, existing)
	if err != nil {
		return err
	}
	if len(documents) == 0 && (!f.prune || !f.allowEmpty) {
		return usageError("the files hold no document").try("check -f; to delete everything an operator applied: --prune --allow-empty")
	}
	request := &vrouterv1.ApplyRequest{DryRun: f.dryRun, ExpectedGeneration: f.expected}
	for _, d := range documents {
		request.Upserts = append(request.Upserts, d.Resource)
	}
	if f.prune {
		request.Prune = &vrouterv1.Prune{AllowEmpty: f.allowEmpty}
	}
	response, err := agent.Apply(cmd.Context(), request)
	if err != nil {
		return inFiles(err, documents)
	}
	return a.printApplied(response)
}

// keptByPrune returns the resources that references may still name after pruning.
func keptByPrune(existing []*vrouterv1.Resource) []*vrouterv1.Resource {
	var kept []*vrouterv1.Resource
	for _, r := range existing {
		if r.GetOwner() != operator {
			kept = append(kept, r)
		}
	}
	return kept
}

// upsertPath is a field path of the request: upserts[3].floatingIp.members[0] → 3, "members[0]"; upserts[3].name → 3, "name".
var upsertPath = regexp.MustCompile(`^upserts\[(\d+)\]\.?([A-Za-z0-9]*)(.*)$`)

// inFiles turns the agent's violations into places in the files. An error that is about no document stays as it is.
func inFiles(err error, documents []statefile.Document) error {
	var call *client.Error
	if !errors.As(err, &call) || len(call.Violations) == 0 {
		return err
	}
	var problems statefile.Problems
	for _, v := range call.Violations {
		match := upsertPath.FindStringSubmatch(v.Field)
		if match == nil {
			return err
		}
		index, convErr := strconv.Atoi(match[1])
		if convErr != nil || index >= len(documents) {
			return err
		}
		field := match[2] + match[3]
		if field != "" && match[2] != "name" { // the oneof's member is `spec` in files
			field = "spec" + match[3]
		}
		problems = append(problems, documents[index].At(field, v.Description, ""))
	}
	return problems
}

// printApplied says what the transaction did: changes one by one, the rest as a number.
func (a *app) printApplied(response *vrouterv1.ApplyResponse) error {
	if a.output == "json" || a.output == "yaml" {
		return a.printMessage(response)
	}
	numbers := map[vrouterv1.ResourceResult_Outcome]int{}
	for _, r := range response.GetResults() {
		numbers[r.GetOutcome()]++
		if r.GetOutcome() != vrouterv1.ResourceResult_UNCHANGED || a.output == "wide" {
			fmt.Fprintf(a.out, "%s %s %s\n", r.GetKey().GetKind(), r.GetKey().GetName(), outcome(r.GetOutcome()))
		}
	}
	var parts []string
	for _, o := range []vrouterv1.ResourceResult_Outcome{vrouterv1.ResourceResult_CREATED, vrouterv1.ResourceResult_UPDATED,
		vrouterv1.ResourceResult_DELETED, vrouterv1.ResourceResult_UNCHANGED, vrouterv1.ResourceResult_NOT_FOUND} {
		if n := numbers[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, outcome(o)))
		}
	}
	if len(parts) == 0 {
		parts = []string{"nothing to do"}
	}
	state := fmt.Sprintf("generation %d %s", response.GetGeneration().GetNumber(), strings.ToLower(enumName(response.GetGeneration().GetLevel())))
	if response.GetDryRun() {
		state = "dry run, nothing was changed"
	}
	_, err := fmt.Fprintf(a.out, "%s (%s)\n", strings.Join(parts, ", "), state)
	return err
}

func outcome(o vrouterv1.ResourceResult_Outcome) string {
	return strings.ReplaceAll(strings.ToLower(enumName(o)), "_", " ")
}
