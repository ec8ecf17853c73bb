#!/bin/sh
# golangci-lint and staticcheck over the whole tree, at the versions that
# tools/go.mod pins. The first run builds them into .cache/tools.
set -eu
cd "$(dirname "$0")/.."
exec tools/lint.sh ./...
