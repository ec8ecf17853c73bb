#!/bin/sh
# Renders the chart into the plain manifests of deploy/kubernetes with Helm's library, pinned in tools/helm/go.mod; lints first.
# --check: fail if that changes anything that is committed.
# --render ARGS: writes what the chart makes of other values, see tools/helm/main.go.
set -eu
cd "$(dirname "$0")/.."
helm=$PWD/.cache/tools/bin/helm
mkdir -p "${helm%/*}"
(cd tools/helm && CGO_ENABLED=0 go build -mod=readonly -o "$helm" .)
if [ "${1:-}" = --render ]; then
	shift
	exec "$helm" -chart deploy/helm/vrouter "$@"
fi
# manifest FILE TEXT ARGS: one file, with what to say at its head.
manifest() {
	file=deploy/kubernetes/$1
	text=$2
	shift 2
	"$helm" -chart deploy/helm/vrouter "$@" >"$file.new" || { rm -f "$file.new"; exit 1; }
	if [ -s "$file.new" ]; then
		{
			echo '# Rendered from deploy/helm/vrouter by "make gen"; do not edit.'
			echo "# $text"
			cat "$file.new"
		} >"$file"
	fi
	rm -f "$file.new"
}
manifest vrouter.yaml 'The forwarder and its control plane on every node, and the CNI plugin. docs/kubernetes.md says what to do before.' \
	-set namespace.create=true -templates node
manifest ingress.yaml 'Ingresses by HAProxy. Needs vrouter.yaml.' -set ingress.enabled=true -templates ingress
manifest crds.yaml 'Resource definitions that vrkube reads where they are there.' -templates crds
if [ "${1:-}" = --check ]; then
	git diff --exit-code -- deploy/kubernetes || { echo "tools/helm.sh: the manifests are not what the chart says; run make gen and commit" >&2; exit 1; }
	[ -z "$(git status --porcelain -- deploy/kubernetes)" ] || { echo "tools/helm.sh: manifests are not committed:" >&2; git status --short -- deploy/kubernetes >&2; exit 1; }
fi
