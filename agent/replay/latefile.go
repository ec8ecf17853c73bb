package replay

import (
	"errors"
	"os"
)

// fileHeader is the length of a capture file without packets.
const fileHeader = 24

// lateFile is a capture file that comes into being with its first packet: an
// interface that was sent nothing has no file.
type lateFile struct {
	path string
	file *os.File
}

// newLateFile removes what an earlier replay left at path.
func newLateFile(path string) (*lateFile, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return &lateFile{path: path}, nil
}

// Write implements io.Writer. The capture's writer buffers, so its header comes
// alone only if nothing follows.
func (l *lateFile) Write(b []byte) (int, error) {
	if l.file == nil {
		if len(b) <= fileHeader {
			return len(b), nil
		}
		f, err := os.Create(l.path)
		if err != nil {
			return 0, err
		}
		l.file = f
	}
	return l.file.Write(b)
}

// Close implements io.Closer.
func (l *lateFile) Close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
