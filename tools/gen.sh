#!/bin/sh
# Generates the Go of proto/ anew: lints first, then runs the plugins pinned in tools/go.mod.
# --check: fail if that changes anything that is committed.
set -eu
cd "$(dirname "$0")/.."
# The vocabulary of the rules must be the published one, of the release that the library which evaluates them is made for.
vocabulary=$(go mod download -json github.com/bufbuild/protovalidate@v1.2.2 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/proto/protovalidate/buf/validate/validate.proto
cmp "$vocabulary" tools/protovalidate/buf/validate/validate.proto || {
	echo "tools/gen.sh: tools/protovalidate differs from the published one; copy it from $vocabulary" >&2
	exit 1
}
tools/buf.sh lint
tools/buf.sh format --diff --exit-code proto
tools/buf.sh generate
if [ "${1:-}" = --check ]; then
	git diff --exit-code -- proto || { echo "tools/gen.sh: the generated code is not what the .proto files say; run make gen and commit" >&2; exit 1; }
	[ -z "$(git status --porcelain -- proto)" ] || { echo "tools/gen.sh: generated files are not committed:" >&2; git status --short -- proto >&2; exit 1; }
fi
