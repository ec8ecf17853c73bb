// Command gen writes the tables of docs/ that follow from the source: RFCS.md from
// the citations above tests, state-file.md from the comments of the .proto files.
// test/gen.sh runs it in the repository's root.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	image := flag.String("image", "", "descriptors of proto/ with comments, as `buf build -o FILE` writes them")
	flag.Parse()
	if err := run(*image); err != nil {
		fmt.Fprintln(os.Stderr, "docs/gen:", err)
		os.Exit(1)
	}
}

func run(image string) error {
	rfcs, err := rfcTable(".")
	if err != nil {
		return err
	}
	if err := os.WriteFile("docs/RFCS.md", rfcs, 0o644); err != nil {
		return err
	}
	stateFile, err := stateFileReference(image)
	if err != nil {
		return err
	}
	return os.WriteFile("docs/state-file.md", stateFile, 0o644)
}
