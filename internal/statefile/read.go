package statefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Source is one file's name and contents.
type Source struct {
	// Name as it stands in problems.
	Name string
	// Data is the text, UTF-8.
	Data []byte
}

// Read reads a state file, every .yaml, .yml and .json file of a directory (not of those below it), or stdin for "-".
// The files of a directory come in the order of their names.
func Read(paths []string, stdin io.Reader) ([]Source, error) {
	var sources []Source
	budget := int64(MaxBytes)
	for _, path := range paths {
		files, err := expand(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			source, err := readOne(file, stdin, budget)
			if err != nil {
				return nil, err
			}
			budget -= int64(len(source.Data))
			sources = append(sources, source)
		}
	}
	return sources, nil
}

// expand turns a directory into its state files.
func expand(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w; give a state file, a directory of them, or - for standard input", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		if isStateFile(entry.Name()) && !entry.IsDir() {
			files = append(files, filepath.Join(path, entry.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: %w: the directory holds no .yaml, .yml or .json file", path, fs.ErrNotExist)
	}
	return files, nil
}

func isStateFile(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(name))) && !strings.HasPrefix(name, ".")
}

// readOne reads a file or stdin, at most budget bytes.
func readOne(path string, stdin io.Reader, budget int64) (Source, error) {
	name, reader := path, stdin
	if path == "-" {
		name = "<stdin>"
	} else {
		file, err := os.Open(path)
		if err != nil {
			return Source{}, err
		}
		defer file.Close()
		reader = file
	}
	data, err := io.ReadAll(io.LimitReader(reader, budget+1))
	if err != nil {
		return Source{}, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(data)) > budget {
		return Source{}, fmt.Errorf("%s: more than %d MiB of state in one call; apply the files in several calls", name, MaxBytes>>20)
	}
	return Source{Name: name, Data: data}, nil
}
