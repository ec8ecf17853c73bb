#!/bin/sh
# Writes everything that is generated and committed: the Go of proto/, and the
# tables of docs/ that follow from the source.
set -eu
cd "$(dirname "$0")/.."
tools/gen.sh
tools/helm.sh # deploy/kubernetes
go generate ./forwarder # docs/DROPS.md
tools/buf.sh build proto -o .cache/proto.binpb
go run ./docs/gen -image .cache/proto.binpb # docs/RFCS.md, docs/state-file.md
