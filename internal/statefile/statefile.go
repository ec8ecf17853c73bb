// Package statefile reads and writes state files: YAML or JSON documents, each with `kind`, `name` and `spec`, separated by
// lines of `---`.
//
// The way of a file, in file order:
//
//	read.go      arguments (file, directory, -) → sources, bounded in size
//	split.go     source → documents
//	tree.go      YAML text → tree with positions, bounded in depth; json.go does the same for JSON
//	decode.go    tree → Resource, refusing unknown fields and wrong types
//	validate.go  the rules of the API's own messages (protovalidate)
//	reference.go names that exist nowhere
//	marshal.go   the way back
//
// Everything wrong is reported at once, each Problem with file:line:column, field path and what would be right. Nothing here
// keeps state; all functions may be called from any goroutine.
package statefile

import (
	"fmt"

	vrouterv1 "github.com/vrouter-go/vrouter/proto/vrouter/v1"
)

// Bounds on hostile input. They are far above any honest file.
const (
	// MaxBytes is the most bytes that all sources of one call may hold together.
	MaxBytes = 64 << 20
	// MaxDocuments is the most documents of one call; ApplyRequest takes no more.
	MaxDocuments = 200_000
	// maxDepth is the deepest nesting of lists and mappings; the deepest honest document needs 8.
	maxDepth = 32
	// maxIndent is the farthest column, counted from 1, at which a block list or mapping may begin.
	maxIndent = 128
	// maxEntries is the most entries of one block mapping; labels, the largest honest one, end at 128.
	maxEntries = 1024
	// maxProblems is how many problems are collected before reading stops.
	maxProblems = 100
)

// Document is one resource of a state file and where its parts stand.
type Document struct {
	// Resource that the document describes; valid by itself.
	Resource *vrouterv1.Resource
	// File is the name of the source, as the user gave it.
	File string

	positions map[string]position
}

// position in a source, both counted from 1; zero: not known.
type position struct{ line, column int }

// Kind returns the kind of the document, for example VirtualNetwork.
func (d Document) Kind() string { return Kind(d.Resource) }

// At returns a Problem at a field of the document, or at the nearest enclosing part that stands in the file. The field path
// is spelled as in Problem.Field.
func (d Document) At(field, message, hint string) Problem {
	at := d.positions[""]
	for path := field; path != ""; path = parentPath(path) {
		if p, ok := d.positions[path]; ok {
			at = p
			break
		}
	}
	return Problem{File: d.File, Line: at.line, Column: at.column, Field: field, Message: message, Hint: hint}
}

// Parse reads the documents of all sources. existing are the resources that references may also name (those a server already
// holds); nil: references must stay within the sources. On any problem the error is a Problems and no document is returned.
func Parse(sources []Source, existing []*vrouterv1.Resource) ([]Document, error) {
	p := &parse{}
	for _, source := range sources {
		p.source(source)
	}
	p.duplicates()
	if len(p.problems) == 0 { // a name that was misread above would only be reported twice
		p.references(existing)
	}
	if len(p.problems) > 0 {
		return nil, p.problems.sorted(sources)
	}
	return p.documents, nil
}

// parse collects what the sources hold.
type parse struct {
	documents []Document
	problems  Problems
}

// full reports that enough is wrong to stop reading.
func (p *parse) full() bool { return len(p.problems) >= maxProblems }

func (p *parse) source(s Source) {
	for _, text := range split(s.Data) {
		if p.full() {
			return
		}
		if len(p.documents) >= MaxDocuments {
			p.problems = append(p.problems, Problem{File: s.Name, Line: text.line, Column: 1,
				Message: fmt.Sprintf("more than %d documents in one call", MaxDocuments), Hint: "apply the files in several calls"})
			return
		}
		root, problem := readTree(text)
		if problem != nil {
			problem.File = s.Name
			p.problems = append(p.problems, *problem)
			continue
		}
		if root == nil || root.shape == null { // only comments
			continue
		}
		d := &decoder{file: s.Name, positions: map[string]position{"": {root.line, root.column}}}
		resource := d.document(root)
		if len(d.problems) == 0 {
			d.validate(resource, root)
		}
		p.problems = append(p.problems, d.problems...)
		if resource != nil && len(d.problems) == 0 {
			p.documents = append(p.documents, Document{Resource: resource, File: s.Name, positions: d.positions})
		}
	}
}

// duplicates refuses two documents of the same kind and name, and a second Fabric.
func (p *parse) duplicates() {
	first := make(map[string]Document, len(p.documents))
	for _, d := range p.documents {
		key := d.Kind() + " " + d.Resource.GetName()
		if d.Resource.GetFabric() != nil {
			key = "Fabric"
		}
		earlier, ok := first[key]
		if !ok {
			first[key] = d
			continue
		}
		at := earlier.positions["name"]
		where := fmt.Sprintf("%s:%d:%d", earlier.File, at.line, at.column)
		if key == "Fabric" {
			p.problems = append(p.problems, d.At("kind", "a second Fabric: the first stands at "+where, "a node has one Fabric; merge the two"))
			continue
		}
		p.problems = append(p.problems, d.At("name", fmt.Sprintf("%s %q is already given at %s", d.Kind(), d.Resource.GetName(), where),
			"remove one of the two or give it another name"))
	}
}
