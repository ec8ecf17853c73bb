package statefile

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong in a state file.
type Problem struct {
	// File is the name of the source.
	File string
	// Line and Column where the wrong part begins, counted from 1. 0: the file as a whole.
	Line, Column int
	// Field path in the document, for example spec.subnets[0].prefix. Empty: the document.
	Field string
	// Message says what is wrong and what would be right.
	Message string
	// Hint says what to try. Empty: the message says it.
	Hint string
}

// Error renders the problem as file:line:column: field: message, with the hint on a second line.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString("\n    try: " + p.Hint)
	}
	return b.String()
}

// Problems is everything wrong in a set of state files, in the order of the files.
type Problems []Problem

// Error renders one problem after the other.
func (p Problems) Error() string {
	lines := make([]string, 0, len(p)+1)
	for _, problem := range p {
		lines = append(lines, problem.Error())
	}
	if len(p) >= maxProblems {
		lines = append(lines, fmt.Sprintf("stopped after %d problems", len(p)))
	}
	return strings.Join(lines, "\n")
}

// sorted orders the problems by source and position.
func (p Problems) sorted(sources []Source) Problems {
	order := make(map[string]int, len(sources))
	for i, s := range sources {
		order[s.Name] = i
	}
	slices.SortStableFunc(p, func(a, b Problem) int {
		if c := order[a.File] - order[b.File]; c != 0 {
			return c
		}
		if c := a.Line - b.Line; c != 0 {
			return c
		}
		return a.Column - b.Column
	})
	return p
}

// parentPath removes the last element of a field path: a.b[0] → a.b → a → "".
func parentPath(path string) string {
	if strings.HasSuffix(path, `"]`) { // a map key may hold dots and brackets
		if i := strings.LastIndex(path, `["`); i >= 0 {
			return path[:i]
		}
	}
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}
