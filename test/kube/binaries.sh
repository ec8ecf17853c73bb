#!/bin/sh
# Builds kube-apiserver, kube-controller-manager and kube-proxy from the modules that
# binaries/go.mod pins, and prints the directory that has them. They are kept outside
# the work tree, by version, and built only where they are missing: about 18 minutes of
# processor time and 2.4 GB of memory the first time, nothing later.
#
#   test/kube/binaries.sh          all that are missing
#   VROUTER_KUBE_CACHE=DIR         default ${XDG_CACHE_HOME:-$HOME/.cache}/vrouter-kube
set -eu
cd "$(dirname "$0")/binaries"
version=$(go list -mod=readonly -m -f '{{.Version}}' k8s.io/kubernetes)
dir=${VROUTER_KUBE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vrouter-kube}/$version
mkdir -p "$dir"
numbers=${version#v}
major=${numbers%%.*}
minor=${numbers#*.}
minor=${minor%%.*}
v=k8s.io/component-base/version
for name in kube-apiserver kube-controller-manager kube-proxy; do
	[ ! -x "$dir/$name" ] || continue
	echo "test/kube/binaries.sh: building $name $version (once, some minutes) ..." >&2
	began=$(date +%s)
	# Built beside its place and then renamed: what has the name is whole, also after
	# an interrupted build and where two run at a time.
	new=$(mktemp -d "$dir/.$name.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	CGO_ENABLED=0 go build -mod=readonly -trimpath -o "$new/$name" \
		-ldflags "-s -w -X $v.gitVersion=$version -X $v.gitMajor=$major -X $v.gitMinor=$minor" "k8s.io/kubernetes/cmd/$name"
	mv "$new/$name" "$dir/$name"
	rm -rf "$new"
	trap - EXIT
	echo "test/kube/binaries.sh: $name took $(($(date +%s) - began)) s" >&2
done
echo "$dir"
