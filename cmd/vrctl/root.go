package main

import (
	"context"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vrouter-go/vrouter/agent/client"
)

// terminal is what a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
	color    bool // whether out takes colours
}

// options are the flags that every command has.
type options struct {
	config client.Config
	output string
	plain  bool
}

// formats that -o takes, the default first.
var formats = []string{"table", "wide", "json", "yaml"}

// app is one run of vrctl.
type app struct {
	terminal
	options
	agent *client.Client // set by connect
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, t terminal) int {
	a := &app{terminal: t}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	err := root.ExecuteContext(ctx)
	if a.agent != nil {
		a.agent.Close()
	}
	return a.report(err)
}

// root is the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "vrctl",
		Short: "See and change what a vRouter does",
		Long: `vrctl talks to the agent of one node: it applies desired state, lists what there is, and tells
what happens to packets.

Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 unhealthy.`,
		Example: `  vrctl apply -f state.yaml                                     # networks, interfaces, floating IPs, policies
  vrctl get fip                                                 # what is there
  vrctl explain --vmi web-1 --dst 10.96.0.10 --proto tcp --dport 80   # what happens to a packet, and why
  vrctl drops --watch                                           # what is being dropped right now`,
		SilenceErrors:         true,
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
		Args:                  noArguments,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.plain {
				a.color = false
			}
			if !slices.Contains(formats, a.output) {
				return usageError("there is no output format %q", a.output).try("-o table, wide, json or yaml")
			}
			return nil
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.config.Address, "address", os.Getenv("VROUTER_ADDRESS"), "agent's socket or host:port (default "+client.DefaultAddress+", or $VROUTER_ADDRESS)")
	flags.StringVar(&a.config.CAFile, "ca", "", "PEM file of the authority that signed the agent's certificate (host:port only)")
	flags.StringVar(&a.config.CertFile, "cert", "", "PEM file of our certificate (host:port only)")
	flags.StringVar(&a.config.KeyFile, "key", "", "PEM file of our certificate's key (host:port only)")
	flags.StringVar(&a.config.ServerName, "server-name", "", "name that the agent's certificate carries (default the host of --address)")
	flags.DurationVar(&a.config.Timeout, "timeout", client.DefaultTimeout, "longest wait for an answer, 100ms or more")
	flags.StringVarP(&a.output, "output", "o", formats[0], "output: table, wide, json or yaml")
	flags.BoolVar(&a.plain, "no-color", false, "no colours, also with NO_COLOR set")
	complete(root, "output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError("%v", err).try(cmd.CommandPath() + " --help")
	})
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(usageTemplate)
	root.AddCommand(a.applyCommand(), a.deleteCommand(), a.getCommand(), a.statusCommand(), a.dropsCommand(),
		a.flowCommand(), a.explainCommand(), a.versionCommand())
	return root
}

// helpTemplate shows an example before anything else.
const helpTemplate = `{{.Short}}
{{if .HasExample}}
Examples:
{{.Example}}
{{end}}{{if .Long}}
{{.Long}}
{{end}}
{{.UsageString}}`

// usageTemplate is cobra's own without the examples, which helpTemplate has shown already.
const usageTemplate = `Usage:{{if .Runnable}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{end}}{{if gt (len .Aliases) 0}}

Aliases:
  {{.NameAndAliases}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
`

// connect opens the connection that the command needs.
func (a *app) connect() (*client.Client, error) {
	if a.config.Timeout < 100*time.Millisecond {
		return nil, usageError("--timeout %s is too short", a.config.Timeout).try("--timeout 30s")
	}
	if a.agent == nil {
		agent, err := client.New(a.config)
		if err != nil {
			return nil, err
		}
		a.agent = agent
	}
	return a.agent, nil
}

// noArguments refuses arguments, and names near commands when there are subcommands.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasSubCommands() {
		return usageError("%s takes no argument, not %q", cmd.CommandPath(), args[0]).try(cmd.CommandPath() + " --help")
	}
	cmd.SuggestionsMinimumDistance = 2
	hint := cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + cmd.CommandPath() + " " + near[0] + "?"
	}
	return usageError("%s has no command %q", cmd.CommandPath(), args[0]).try(hint)
}

// complete registers a flag's completion. The only error is a flag that does not exist, which tests would show.
func complete(cmd *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err)
	}
}
