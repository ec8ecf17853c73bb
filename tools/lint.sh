#!/bin/sh
# golangci-lint (.golangci.yaml) and staticcheck, built once from the versions pinned in tools/go.mod, then run on the packages
# given (default: all). The first build takes some minutes on two cores.
set -eu
cd "$(dirname "$0")/.."
bin=$PWD/.cache/tools/bin
stamp=$bin/.$(cksum <tools/go.sum | tr ' ' -)
if [ ! -e "$stamp" ]; then
	mkdir -p "$bin"
	echo "tools/lint.sh: building golangci-lint and staticcheck (once)" >&2
	go build -modfile=tools/go.mod -o "$bin/golangci-lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	go build -modfile=tools/go.mod -o "$bin/staticcheck" honnef.co/go/tools/cmd/staticcheck
	rm -f "$bin"/.[0-9]*
	touch "$stamp"
fi
[ $# -gt 0 ] || set -- ./...
"$bin/golangci-lint" run "$@"
"$bin/staticcheck" -tags kube "$@"
