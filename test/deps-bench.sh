#!/bin/sh
# Installs the Debian packages that `make bench` uses as load and as peers. A peer
# that is missing is left out, loudly; without iperf3, wrk, nginx and nftables
# there is no run.
set -eu
need="iproute2 nftables iperf3 wrk nginx-light openvswitch-switch"
missing=""
for p in $need; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps-bench: not root, so these stay missing:$missing" >&2
	exit 0
fi
# Their services are of no use here: the benchmark starts its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
