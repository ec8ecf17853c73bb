#!/usr/bin/env bash
# Runs every test, once more under the race detector what several goroutines
# share, and each fuzz target for a moment. Ends with go test's own summary lines
# and the skips by reason, so that a skip is never mistaken for a pass.
#
#   test/run.sh [PACKAGES]      default ./...
#   RACE=  FUZZ_EXECS=0         leave those parts out
set -uo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- ./...
race=${RACE-./flowtable ./nexthop ./internal/policy ./internal/bfd ./forwarder ./agent/... ./controller/...}
# A number of runs, not seconds: where the time is up while a worker is busy, Go
# 1.26 calls that a failure (go.dev/issue/75804).
fuzz_execs=${FUZZ_EXECS-20000}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0

# run LABEL COMMAND...: adds the command's output to the log.
run() {
	echo "$1" | tee -a "$log"
	shift
	"$@" >>"$log" 2>&1 || status=1
}

run "== tests" go test -p 2 -timeout 15m -v "$@"

if [ -n "$race" ]; then
	if command -v gcc >/dev/null; then
		# shellcheck disable=SC2086
		run "== race detector: $race" env CGO_ENABLED=1 go test -race -p 1 -timeout 15m -v $race
	else
		echo 'SKIP-TOOL: no gcc, so no race detector' | tee -a "$log"
	fi
fi

if [ "$fuzz_execs" != 0 ]; then
	for pkg in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
		for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$pkg"/*_test.go | cut -c6-); do
			run "== fuzz $pkg $target, $fuzz_execs runs" go test -run '^$' -fuzz "^$target\$" -fuzztime "${fuzz_execs}x" -parallel 2 "$pkg"
		done
	done
fi

echo
[ "$status" = 0 ] || grep -vE '^(=== |\s*--- PASS|PASS$|fuzz: elapsed|ok  |== )|no test files' "$log"
grep -E '^(== |(ok|FAIL)[[:space:]])' "$log"
skipped=$(grep -cE '^\s*--- SKIP' "$log")
if grep -qE 'SKIP-[A-Z]+:' "$log"; then
	echo
	echo "SKIPPED, by reason:"
	grep -oE 'SKIP-[A-Z]+: .*' "$log" | sort | uniq -c
fi
if [ "$(id -u)" != 0 ]; then
	echo
	echo "*** NOT ROOT: no network namespace, no TAP device, no kernel was tested. ***"
	echo "*** Run \"sudo make test\" for the whole.                                   ***"
fi
echo
echo "$(grep -cE '^\s*--- PASS' "$log") passed, $(grep -cE '^\s*--- FAIL' "$log") failed, $skipped skipped, in $SECONDS s"
exit "$status"
