#!/bin/sh
# buf at the pinned version: from npm (seconds), or built from its Go module where npm is absent (minutes, once).
# Usage: tools/buf.sh lint | generate | format -d | breaking --against '.git#ref=HEAD~1'
set -eu
cd "$(dirname "$0")/.."
version=1.75.0
cache=.cache/tools/buf-$version
buf=$cache/node_modules/.bin/buf
[ -x "$buf" ] || buf=$cache/bin/buf
if [ ! -x "$buf" ]; then
	mkdir -p "$cache"
	if command -v npm >/dev/null 2>&1; then
		npm install --prefix "$cache" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error "@bufbuild/buf@$version" >&2
		buf=$cache/node_modules/.bin/buf
	else
		echo "tools/buf.sh: no npm here, building buf $version with Go (a few minutes, once)" >&2
		GOBIN=$PWD/$cache/bin go install "github.com/bufbuild/buf/cmd/buf@v$version"
	fi
fi
[ "$("$buf" --version)" = "$version" ] || { echo "tools/buf.sh: $buf is not buf $version; remove $cache" >&2; exit 1; }
exec "$buf" "$@"
