package statefile

import (
	"bytes"
)

// chunk is the text of one document.
type chunk struct {
	line int // of the first byte in the source, counted from 1
	data []byte
}

// split cuts a source at its document markers. A line that begins with `---` or `...` and then ends or goes on with a blank is a
// marker wherever it stands (YAML 1.2.2 section 9.1.2, c-forbidden), so no parser is needed to find it; and a document that cannot
// be read does not hide the problems of the next one.
func split(data []byte) []chunk {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // byte order mark
	var chunks []chunk
	current := chunk{line: 1}
	start, line := 0, 1
	for at := 0; at < len(data); line++ {
		end := len(data)
		if i := bytes.IndexByte(data[at:], '\n'); i >= 0 {
			end = at + i + 1
		}
		if isMarker(data[at:end]) {
			current.data = data[start:at]
			chunks = append(chunks, current)
			// Text behind the marker belongs to the document: blanks in its place keep the columns.
			start = at + 3
			current = chunk{line: line}
		}
		at = end
	}
	current.data = data[start:]
	return append(chunks, current)
}

// isMarker tells whether a line is a document marker.
func isMarker(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("---")) && !bytes.HasPrefix(line, []byte("...")) {
		return false
	}
	return len(line) == 3 || bytes.IndexByte([]byte(" \t\r\n"), line[3]) >= 0
}
