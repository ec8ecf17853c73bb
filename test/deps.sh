#!/bin/sh
# Installs the Debian packages that privileged tests use as independent
# witnesses, or those that are named. Without root it says what will be skipped and
# goes on.
set -eu
need="iproute2 nftables iptables iputils-ping iputils-arping iperf3 tshark tcpdump ethtool socat curl traceroute netcat-openbsd dnsmasq-base dnsutils python3-scapy conntrack frr haproxy"
[ $# = 0 ] || need="$*"
missing=""
for p in $need; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ]; then
	echo "deps: not root, so these stay missing and what needs them is skipped:$missing" >&2
	exit 0
fi
# Services that come along are of no use here: who needs one starts its own.
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
