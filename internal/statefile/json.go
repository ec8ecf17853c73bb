package statefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// readJSON reads one JSON object into a tree.
func readJSON(c chunk) (*node, *Problem) {
	r := &jsonReader{chunk: c, decoder: json.NewDecoder(bytes.NewReader(c.data)), line: c.line}
	r.decoder.UseNumber()
	root, err := r.value(0)
	if err == nil {
		if r.mark(); r.offset == int64(len(c.data)) {
			return root, nil
		}
		return nil, &Problem{Line: r.line, Column: r.column(), Message: "not JSON: text behind the end of the document",
			Hint: "separate documents by a line of ---"}
	}
	if p := new(Problem); errors.As(err, p) {
		return nil, p
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		r.advance(syntax.Offset - 1)
	} else {
		r.advance(r.decoder.InputOffset())
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the document ends early")
	}
	return nil, &Problem{Line: r.line, Column: r.column(), Message: "not JSON: " + err.Error(), Hint: "check commas, brackets and quotes"}
}

// jsonReader follows the decoder with line and column.
type jsonReader struct {
	chunk     chunk
	decoder   *json.Decoder
	offset    int64 // up to here, lines are counted
	line      int
	lineStart int64
}

// advance counts lines up to an offset, which never goes back.
func (r *jsonReader) advance(to int64) {
	to = min(max(to, r.offset), int64(len(r.chunk.data)))
	for ; r.offset < to; r.offset++ {
		if r.chunk.data[r.offset] == '\n' {
			r.line, r.lineStart = r.line+1, r.offset+1
		}
	}
}

// mark advances to the beginning of the next token: the decoder stands behind the last one.
func (r *jsonReader) mark() {
	at := r.decoder.InputOffset()
	for at < int64(len(r.chunk.data)) && bytes.IndexByte([]byte(" \t\r\n,:"), r.chunk.data[at]) >= 0 {
		at++
	}
	r.advance(at)
}

// column of the current offset in characters, counted from 1. Behind a document marker the first line begins at column 4.
func (r *jsonReader) column() int {
	column := utf8.RuneCount(r.chunk.data[r.lineStart:r.offset]) + 1
	if r.lineStart == 0 && r.chunk.line > 1 {
		column += 3
	}
	return column
}

func (r *jsonReader) value(depth int) (*node, error) {
	r.mark()
	out := &node{line: r.line, column: r.column()}
	if depth > maxDepth {
		return nil, Problem{Line: out.line, Column: out.column, Message: fmt.Sprintf("nested deeper than %d levels", maxDepth),
			Hint: "no document needs that; check brackets and indentation"}
	}
	t, err := r.decoder.Token()
	if err != nil {
		return nil, err
	}
	switch v := t.(type) {
	case string:
		out.shape, out.text = text, v
	case json.Number:
		out.shape, out.text = number, v.String()
	case bool:
		out.shape, out.text = boolean, fmt.Sprint(v)
	case json.Delim:
		if v == '[' {
			return out, r.list(out, depth)
		}
		return out, r.mapping(out, depth)
	}
	return out, nil
}

func (r *jsonReader) list(out *node, depth int) error {
	out.shape = list
	for r.decoder.More() {
		item, err := r.value(depth + 1)
		if err != nil {
			return err
		}
		out.items = append(out.items, item)
	}
	_, err := r.decoder.Token() // the closing bracket
	return err
}

func (r *jsonReader) mapping(out *node, depth int) error {
	out.shape = mapping
	seen := map[string]int{}
	for r.decoder.More() {
		r.mark()
		e := entry{line: r.line, column: r.column()}
		t, err := r.decoder.Token()
		if err != nil {
			return err
		}
		e.key, _ = t.(string) // the decoder lets nothing else stand here
		if first, ok := seen[e.key]; ok {
			return Problem{Line: e.line, Column: e.column, Message: fmt.Sprintf("the key %q is already given in line %d", e.key, first),
				Hint: "remove one of the two"}
		}
		seen[e.key] = e.line
		if e.value, err = r.value(depth + 1); err != nil {
			return err
		}
		out.entries = append(out.entries, e)
	}
	_, err := r.decoder.Token() // the closing brace
	return err
}
