#!/bin/sh
# Runs every test, prints go test's own summary lines, and counts what was
# skipped and why, so that a skip is never mistaken for a pass.
set -u
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
go test -p 2 -timeout 15m -v ./... >"$log" 2>&1 || status=$?
# Under the race detector: what several goroutines share. It needs cgo.
if command -v gcc >/dev/null; then
	CGO_ENABLED=1 go test -race -p 1 -timeout 15m ./flowtable ./nexthop ./internal/policy ./forwarder ./agent/... >>"$log" 2>&1 || status=$?
else
	echo 'SKIP-TOOL: no gcc, so no race detector' >>"$log"
fi
if [ "$status" != 0 ]; then
	grep -vE '^(=== |    --- PASS|--- PASS|PASS$)' "$log"
fi
skips=$(grep -c -- '--- SKIP' "$log")
if [ "$skips" != 0 ]; then
	echo "SKIPPED $skips tests, by reason:"
	grep -oE 'SKIP-[A-Z]+: .*' "$log" | sort | uniq -c
	[ "$(id -u)" = 0 ] || echo 'Not root: network-namespace tests did not run.'
fi
grep -E '^(ok|FAIL|---  ?FAIL|panic:|\?)' "$log" | grep -v 'no test files'
echo "$(grep -c -- '--- PASS' "$log") passed, $(grep -c -- '--- FAIL' "$log") failed, $skips skipped"
exit "$status"
