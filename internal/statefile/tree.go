package statefile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// shape of a node.
type shape uint8

const (
	null shape = iota
	text
	number
	boolean
	mapping
	list
)

// node is one value of a document with its position: what YAML and JSON have in common.
type node struct {
	shape        shape
	line, column int
	text         string  // of text, number and boolean, as it stands in the file
	entries      []entry // of a mapping, in order
	items        []*node // of a list
}

// String describes the value as a user would, short whatever the file holds.
func (n *node) String() string {
	switch n.shape {
	case text:
		return fmt.Sprintf("the text %q", clip(n.text))
	case number:
		return "the number " + clip(n.text)
	case boolean:
		return n.text
	case mapping:
		return "a mapping"
	case list:
		return "a list"
	}
	return "nothing"
}

// clip shortens text for a message.
func clip(s string) string {
	const most = 80
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

// entry is one key of a mapping.
type entry struct {
	key          string
	line, column int
	value        *node
}

// readTree reads the text of one document; nil without a problem when it holds none.
func readTree(c chunk) (*node, *Problem) {
	if !utf8.Valid(c.data) {
		return nil, &Problem{Line: c.line, Column: 1, Message: "the document is not UTF-8 text", Hint: "save the file as UTF-8"}
	}
	for i, b := range c.data { // a line break in YAML but not for most editors: line numbers would differ
		if b == '\r' && (i+1 == len(c.data) || c.data[i+1] != '\n') {
			return nil, &Problem{Line: c.line + bytes.Count(c.data[:i], []byte{'\n'}), Column: 1, Message: "a carriage return without a line feed",
				Hint: "save the file with Unix or Windows line ends"}
		}
	}
	if trimmed := bytes.TrimSpace(c.data); len(trimmed) == 0 {
		return nil, nil
	} else if isJSON(trimmed) { // not left to the YAML parser, since YAML forbids tabs where JSON allows them
		return readJSON(c)
	}
	return readYAML(c)
}

// isJSON tells JSON from YAML in flow style by the quote of the first key.
func isJSON(trimmed []byte) bool {
	return trimmed[0] == '{' && bytes.HasPrefix(bytes.TrimSpace(trimmed[1:]), []byte{'"'})
}

// readYAML parses with goccy/go-yaml after bounding what its recursive parser will see.
func readYAML(c chunk) (root *node, problem *Problem) {
	// The parser is a dependency that reads untrusted text; a panic in it is a wrong file, not the end of the program.
	defer func() {
		if recover() != nil {
			root, problem = nil, &Problem{Line: c.line, Column: 1, Message: "the document cannot be read as YAML",
				Hint: "check indentation, brackets and quotes"}
		}
	}()
	source := string(c.data)
	if c.line > 1 { // the marker was cut off; blanks keep the columns of text behind it
		source = "   " + source
	}
	tokens := lexer.Tokenize(source)
	if problem := checkTokens(tokens, c.line); problem != nil {
		return nil, problem
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxProblem(err, c.line)
	}
	for _, document := range file.Docs {
		if document.Body != nil {
			t := treeReader{offset: c.line - 1}
			root := t.read(document.Body)
			return root, t.problem
		}
	}
	return nil, nil
}

// checkTokens refuses what state files have no use for (aliases, the way to YAML bombs), nesting that would exhaust the
// parser's stack and mappings so large that its quadratic time would show.
func checkTokens(tokens token.Tokens, line int) *Problem {
	depth := 0
	var entries [maxIndent + 1]int // of the block mapping open at each column
	for _, t := range tokens {
		at := func(message, hint string) *Problem {
			return &Problem{Line: line - 1 + t.Position.Line, Column: t.Position.Column, Message: message, Hint: hint}
		}
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return at("YAML anchors, aliases and merge keys are not read", "write the value out at each place")
		case token.TagType:
			return at(fmt.Sprintf("the YAML tag %s is not read", t.Value), "leave it out; quote the value if it should be text")
		case token.DirectiveType:
			return at("YAML directives are not read", "leave the line out")
		case token.MappingStartType, token.SequenceStartType:
			depth++
		case token.MappingEndType, token.SequenceEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType:
			if t.Position.Column > maxIndent {
				depth = maxDepth + 1
			} else if depth == 0 {
				clear(entries[t.Position.Column:])
			}
		case token.MappingValueType:
			if depth > 0 || t.Prev == nil {
				break
			}
			column := t.Prev.Position.Column
			if column > maxIndent {
				depth = maxDepth + 1
				break
			}
			clear(entries[column+1:])
			if entries[column]++; entries[column] > maxEntries {
				return at(fmt.Sprintf("a mapping of more than %d entries", maxEntries), "check the indentation; separate documents by lines of ---")
			}
		}
		if depth > maxDepth {
			return at(fmt.Sprintf("nested deeper than %d levels", maxDepth), "no document needs that; check brackets and indentation")
		}
	}
	return nil
}

// syntaxProblem renders the parser's own words.
func syntaxProblem(err error, line int) *Problem {
	p := &Problem{Line: line, Column: 1, Message: "not YAML", Hint: "check indentation, brackets and quotes"}
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) { // Error() would print the whole source, in quadratic time
		return p
	}
	p.Message = "not YAML: " + syntax.Message
	if syntax.Token != nil && syntax.Token.Position != nil {
		p.Line, p.Column = line-1+syntax.Token.Position.Line, syntax.Token.Position.Column
	}
	switch {
	case strings.Contains(syntax.Message, "'\t'"):
		p.Message = "not YAML: a tab cannot stand here"
		p.Hint = "indent with blanks, not with tabs"
	case strings.Contains(syntax.Message, "mapping value is not allowed"):
		p.Hint = "quote a value that holds ': ', and indent the keys of one mapping alike"
	}
	return p
}

// treeReader turns the parser's tree into nodes; the first problem stops it.
type treeReader struct {
	offset  int // lines before the document
	problem *Problem
}

func (t *treeReader) read(n ast.Node) *node {
	if n == nil || n.GetToken() == nil {
		return &node{}
	}
	at := n.GetToken().Position
	out := &node{line: t.offset + at.Line, column: at.Column}
	switch v := n.(type) {
	case *ast.NullNode:
	case *ast.StringNode:
		out.shape, out.text = text, v.Value
	case *ast.LiteralNode:
		out.shape, out.text = text, v.Value.Value
	case *ast.IntegerNode:
		out.shape, out.text = number, v.Token.Value
	case *ast.FloatNode:
		out.shape, out.text = number, v.Token.Value
	case *ast.InfinityNode, *ast.NanNode:
		out.shape, out.text = number, v.GetToken().Value
	case *ast.BoolNode:
		out.shape, out.text = boolean, v.Token.Value
	case *ast.MappingNode:
		t.mapping(out, v.Values)
	case *ast.MappingValueNode: // a mapping of one entry
		t.mapping(out, []*ast.MappingValueNode{v})
	case *ast.SequenceNode:
		out.shape = list
		for _, item := range v.Values {
			out.items = append(out.items, t.read(item))
		}
	default:
		t.fail(out.line, out.column, fmt.Sprintf("a YAML %s is not read here", n.Type()), "write text, a number, true, false, a list or a mapping")
	}
	return out
}

func (t *treeReader) mapping(out *node, values []*ast.MappingValueNode) {
	out.shape = mapping
	seen := make(map[string]int, len(values))
	for i, v := range values {
		key := v.Key.GetToken()
		line, column := t.offset+key.Position.Line, key.Position.Column
		if i == 0 && !isFlowStart(out, line, column) {
			out.line, out.column = line, column // a block mapping begins at its first key, not at its first colon
		}
		if first, ok := seen[key.Value]; ok {
			t.fail(line, column, fmt.Sprintf("the key %q is already given in line %d", key.Value, first), "remove one of the two")
		}
		seen[key.Value] = line
		out.entries = append(out.entries, entry{key: key.Value, line: line, column: column, value: t.read(v.Value)})
	}
}

// isFlowStart tells whether a mapping's own token, a brace, stands before its first key.
func isFlowStart(out *node, line, column int) bool {
	return out.line < line || out.line == line && out.column < column
}

func (t *treeReader) fail(line, column int, message, hint string) {
	if t.problem == nil {
		t.problem = &Problem{Line: line, Column: column, Message: message, Hint: hint}
	}
}
