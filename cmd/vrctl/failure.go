package main

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/vrouter-go/vrouter/agent/client"
	"github.com/vrouter-go/vrouter/internal/statefile"
)

// Exit codes. They are a contract with scripts.
const (
	exitOK        = 0
	exitError     = 1
	exitUsage     = 2
	exitNotFound  = 3
	exitUnhealthy = 4
)

// failure is an error with an exit code of its own.
type failure struct {
	code       int
	what, hint string
}

// Error returns what is wrong.
func (f *failure) Error() string { return f.what }

// try adds what to do.
func (f *failure) try(hint string) *failure {
	f.hint = hint
	return f
}

func usageError(format string, args ...any) *failure {
	return &failure{code: exitUsage, what: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *failure {
	return &failure{code: exitNotFound, what: fmt.Sprintf(format, args...)}
}

// report prints an error as what, why and try, and returns the exit code.
func (a *app) report(err error) int {
	var problems statefile.Problems
	var failed *failure
	var call *client.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &problems):
		fmt.Fprintln(a.err, problems.Error())
		fmt.Fprintf(a.err, "vrctl: %s; nothing was applied\n", count(len(problems), "problem"))
		return exitError
	case errors.As(err, &failed):
		if failed.what != "" {
			a.complain(failed.what, "", failed.hint)
		}
		return failed.code
	case errors.As(err, &call):
		a.complain(call.What, call.Why, call.Try)
		for _, v := range call.Violations {
			fmt.Fprintf(a.err, "  %s: %s\n", v.Field, v.Description)
		}
		if call.Code == codes.NotFound {
			return exitNotFound
		}
		return exitError
	}
	a.complain(err.Error(), "", "")
	return exitError
}

func (a *app) complain(what, why, try string) {
	fmt.Fprintf(a.err, "vrctl: %s\n", what)
	if why != "" {
		fmt.Fprintf(a.err, "  why: %s\n", why)
	}
	if try != "" {
		fmt.Fprintf(a.err, "  try: %s\n", try)
	}
}

// count writes a number with its noun: 1 problem, 2 problems.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if strings.HasSuffix(noun, "y") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(noun, "y"))
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
