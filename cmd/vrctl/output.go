package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// column is one column of a table: every format shows the same messages, so a column only reads one.
type column[T any] struct {
	title string
	wide  bool // only with -o wide
	value func(T) string
}

// printTable writes rows under their titles. An empty value shows as "-".
func printTable[T any](w io.Writer, columns []column[T], rows []T, wide bool) error {
	tab := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	line := func(value func(column[T]) string) {
		var cells []string
		for _, c := range columns {
			if !c.wide || wide {
				cells = append(cells, value(c))
			}
		}
		fmt.Fprintln(tab, strings.Join(cells, "\t"))
	}
	line(func(c column[T]) string { return c.title })
	for _, row := range rows {
		line(func(c column[T]) string {
			if v := c.value(row); v != "" {
				return v
			}
			return "-"
		})
	}
	return tab.Flush()
}

// printList writes messages as a table, or as one JSON or YAML list.
func printList[T proto.Message](a *app, columns []column[T], items []T) error {
	if a.output == "table" || a.output == "wide" {
		return printTable(a.out, columns, items, a.output == "wide")
	}
	list := make([]json.RawMessage, len(items))
	for i, item := range items {
		raw, err := toJSON(item)
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

// printMessage writes one message as JSON or YAML.
func (a *app) printMessage(m proto.Message) error {
	raw, err := toJSON(m)
	if err != nil {
		return err
	}
	return a.printRaw(raw)
}

// printLine writes one message of a watch: one line of JSON, or one YAML document.
func (a *app) printLine(m proto.Message) error {
	raw, err := toJSON(m)
	if err != nil {
		return err
	}
	return a.printRawLine(raw)
}

func (a *app) printRawLine(raw []byte) error {
	if a.output == "yaml" {
		fmt.Fprintln(a.out, "---")
		return a.printRaw(raw)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.out, b.String())
	return err
}

// printRaw writes JSON indented, or as YAML.
func (a *app) printRaw(raw []byte) error {
	if a.output == "yaml" {
		out, err := yaml.JSONToYAML(raw)
		if err != nil {
			return err
		}
		_, err = a.out.Write(out)
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(a.out)
	return err
}

// toJSON writes every field, also zero ones: a script that reads `.sessions` should find 0, not nothing.
func toJSON(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer // protojson varies its blanks on purpose
	if err := json.Compact(&b, raw); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// wantsColor follows https://no-color.org: colours only on a terminal and without NO_COLOR.
func wantsColor(f *os.File) bool {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Colours of verdicts and health.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (a *app) paint(color, s string) string {
	if !a.color {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// enumName is an enum value in its JSON spelling; "unknown" when it is not set.
func enumName(e fmt.Stringer) string {
	if s := e.String(); !strings.HasSuffix(s, "_UNSPECIFIED") {
		return s
	}
	return "unknown"
}

// shortDuration writes a duration with two units at most: 3d4h, 2h5m, 1m30s, 4.2s.
func shortDuration(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return spell(d.AsDuration())
}

func spell(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

// size writes bytes with a binary unit.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
