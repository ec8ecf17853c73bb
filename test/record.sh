#!/bin/bash
# Records testdata/pcap: real programs of this machine talk through the real
# daemon's TAPs, tcpdump in each guest's namespace writes down what it sends and
# what it is sent. Needs root, the packages of test/deps.sh, and bin/vrouter.
#
#   make build && test/record.sh [FIXTURE...] && go test ./test/replay -update
#
# Offloads are off in the guests: a pcap file has no place for the metadata of a
# superpacket or of a checksum that the device is to complete.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
p=vrtrec$$
guests="client-1 vhost0 web-1 web-2 small"
work=$(mktemp -d)
jobs_file=$work/jobs

cleanup() {
	[ -f "$jobs_file" ] && xargs -r kill <"$jobs_file" 2>/dev/null
	kill "${daemon:-}" 2>/dev/null && wait "$daemon" 2>/dev/null
	for g in $guests; do
		ip netns pids "$p-$g" 2>/dev/null | xargs -r kill 2>/dev/null
		ip netns del "$p-$g" 2>/dev/null
	done
	rm -rf "$work"
}
trap cleanup EXIT

in_() { # GUEST COMMAND...
	local g=$1
	shift
	ip netns exec "$p-$g" "$@"
}
serve() { # GUEST COMMAND...: in the background until the end
	local g=$1
	shift
	ip netns exec "$p-$g" "$@" </dev/null >/dev/null 2>&1 &
	echo $! >>"$jobs_file"
}
await() { # SECONDS COMMAND...: until it succeeds
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $deadline ] || { echo "gave up: $*" >&2; exit 1; }
		sleep 0.05
	done
}

start_world() {
	for g in $guests; do
		ip netns add "$p-$g"
		ip -n "$p-$g" link set lo up
		in_ "$g" sysctl -qw net.ipv6.conf.default.router_solicitations=0
	done
	printf 'socket: %s/sock\nstateDir: ""\nforwarder: {workers: 1}\nlog: {level: error}\n' "$work" >"$work/vrouter.yaml"
	"$root/bin/vrouter" run --config "$work/vrouter.yaml" &
	daemon=$!
	await 5 test -S "$work/sock"
	sed "s/@P@/$p/" "$root/test/record/state.yaml" >"$work/state.yaml"
	"$root/bin/vrctl" --address "$work/sock" apply -f "$work/state.yaml" >/dev/null
	for g in $guests; do
		await 5 in_ "$g" ip link show "$(device "$g")" >"$work/log" 2>&1
		in_ "$g" ethtool -K "$(device "$g")" tx off tso off gso off gro off >/dev/null
		await 5 ready "$g"
	done
}
device() { [ "$1" = vhost0 ] && echo vhost0 || echo eth0; }
ready() { # no address is still being checked
	in_ "$1" ip -6 addr show dev "$(device "$1")" scope global | grep -q inet6 && ! in_ "$1" ip -6 addr show tentative | grep -q inet6
}

start_servers() {
	for g in web-1 web-2 small; do
		mkdir -p "$work/www"
		head -c 6000 /dev/zero | tr '\0' 'v' >"$work/www/index.html"
		serve "$g" python3 -m http.server 8080 --bind :: --directory "$work/www"
		serve "$g" socat TCP6-LISTEN:2222,ipv6only=0,fork,reuseaddr EXEC:cat
		serve "$g" "$root/test/record/datagram.py" serve 7007
		serve "$g" iperf3 -s
		serve "$g" dnsmasq --keep-in-foreground --no-resolv --no-hosts --no-daemon --conf-file=/dev/null --pid-file= --port=5353 \
			--host-record=www.example.net,198.51.100.80,2001:db8:80::80 --txt-record=long.example.net,"$(printf 'x%.0s' {1..200})"
	done
	serve vhost0 socat TCP6-LISTEN:22,ipv6only=0,fork,reuseaddr SYSTEM:"echo SSH-2.0-node"
	for g in web-1 web-2 small; do
		for port in 8080 2222 5201 5353; do await 5 listening "$g" $port; done
	done
}
listening() { in_ "$1" ss -Hltn "sport = :$2" | grep -q .; }

fixture() { # NAME FUNCTION: record what happens while it runs
	local name=$1 dir=$root/testdata/pcap/$1
	[ -z "$only" ] || [[ " $only " == *" $name "* ]] || return 0
	echo "== $name"
	rm -rf "$dir"
	mkdir -p "$dir/received"
	sed 's/netns: [^,}]*, guestName: eth0, //; /^    netns: /d' "$root/test/record/state.yaml" |
		sed '1,2c# Written by test/record.sh from test/record/state.yaml.' >"$dir/state.yaml"
	local dumps=()
	for g in $guests; do
		ip netns exec "$p-$g" tcpdump -i "$(device "$g")" -U --immediate-mode --time-stamp-precision=nano -Z root -w "$work/$g.pcap" 2>"$work/$g.log" &
		dumps+=($!)
	done
	for g in $guests; do await 5 grep -q "listening on" "$work/$g.log"; done
	"$2"
	settle
	kill "${dumps[@]}" # SIGINT is ignored in the background of a script
	wait "${dumps[@]}" || true
	for g in $guests; do split "$g" "$dir"; done
}
settle() { # until no capture grows
	local before=x now
	now=$(stat -c %s "$work"/*.pcap | xargs)
	until [ "$before" = "$now" ]; do
		sleep 0.3
		before=$now now=$(stat -c %s "$work"/*.pcap | xargs)
	done
}
split() { # GUEST DIR: what it sent, what it was sent
	local router=00:00:5e:00:01:00
	tcpdump --time-stamp-precision=nano -r "$work/$1.pcap" -w "$2/in-$1.pcap" not ether src $router 2>/dev/null
	tcpdump --time-stamp-precision=nano -r "$work/$1.pcap" -w "$2/received/$1.pcap" ether src $router 2>/dev/null
	for f in "$2/in-$1.pcap" "$2/received/$1.pcap"; do
		[ "$(stat -c %s "$f")" -gt 24 ] || rm "$f"
	done
}

# The fixtures.
http() {
	in_ client-1 curl -sf -o /dev/null http://10.96.0.10/
	in_ client-1 curl -sf -o /dev/null 'http://[fd00:96::10]/'
	in_ web-2 curl -sf -o /dev/null http://10.96.0.20/
}
dns() {
	local answer
	for server in 10.96.0.10 fd00:96::10; do
		for query in "www.example.net A" "www.example.net AAAA" "long.example.net TXT" "+tcp www.example.net A"; do
			answer=$(in_ client-1 dig +short +tries=1 "@$server" $query) # shellcheck disable=SC2086
			[ -n "$answer" ] || { echo "no answer to $query" >&2; exit 1; }
		done
	done
}
iperf() {
	in_ client-1 iperf3 -c 10.96.0.10 -n 40K -l 4K >/dev/null
	in_ client-1 iperf3 -6 -c fd00:96::10 -n 40K -l 4K -R >/dev/null
	in_ client-1 iperf3 -c 10.96.0.20 -u -n 20K -l 1000 -b 4M >/dev/null
}
ping_() {
	in_ client-1 ping -q -c 3 -i 0.01 10.96.0.30 >/dev/null
	in_ client-1 ping -q -c 3 -i 0.01 fd00:96::30 >/dev/null
	in_ vhost0 ping -q -c 2 -i 0.01 10.244.0.11 >/dev/null
	in_ vhost0 ping -q -c 2 -i 0.01 fd00:244::11 >/dev/null
	in_ web-1 ping -q -c 2 -i 0.01 10.244.0.1 >/dev/null
	in_ web-1 ping -q -c 2 -i 0.01 -s 4000 fd00:244::1 >/dev/null
}
trace() {
	for target in 10.96.0.30 fd00:96::30; do
		in_ client-1 traceroute -n -q 1 -N 1 -w 2 $target >/dev/null
		in_ client-1 traceroute -n -I -q 1 -N 1 -w 2 $target >/dev/null
		in_ client-1 traceroute -n -T -p 8080 -q 1 -N 1 -w 2 $target >/dev/null
	done
	in_ client-1 traceroute -n -q 1 -N 1 -w 2 10.96.0.10 >/dev/null
}
ssh_like() { # a line, its echo, and the next: as a terminal session goes
	for target in TCP4:10.96.0.10:22 'TCP6:[fd00:96::10]:22'; do
		in_ client-1 bash -c '
			coproc c { socat - "$0"; }
			for i in $(seq 20); do
				echo "line $i of a long session" >&"${c[1]}"
				read -r -t 5 -u "${c[0]}" reply
				[ "$reply" = "line $i of a long session" ] || exit 1
			done' "$target"
	done
}
fragments() {
	in_ client-1 "$root/test/record/datagram.py" ask 10.96.0.10 7 4000
	in_ client-1 "$root/test/record/datagram.py" ask fd00:96::10 7 4000
	in_ client-1 ping -q -c 1 -M dont -s 1400 10.96.0.30 >/dev/null # we fragment for the smaller MTU
}
hairpin() {
	in_ web-1 curl -sf -o /dev/null http://10.96.0.20/
	in_ web-1 curl -sf -o /dev/null 'http://[fd00:96::20]/'
	in_ web-1 "$root/test/record/datagram.py" ask 10.96.0.20 7 100
}
refused() {
	in_ client-1 curl -s -o /dev/null http://10.96.0.10:81/ && exit 1
	in_ client-1 curl -s -o /dev/null 'http://[fd00:96::10]:81/' && exit 1
	in_ client-1 dig +short +tries=1 -p 54 @10.96.0.10 www.example.net >/dev/null && exit 1
	in_ client-1 dig +short +tries=1 -p 54 @fd00:96::10 www.example.net >/dev/null && exit 1
	# closed at the member: its own refusals, translated
	in_ client-1 curl -s -o /dev/null http://10.96.0.30:81/ && exit 1
	in_ client-1 dig +short +tries=1 -p 54 @10.96.0.30 www.example.net >/dev/null && exit 1
	in_ client-1 dig +short +tries=1 -p 54 @fd00:96::30 www.example.net >/dev/null && exit 1
	# no policy, no route
	in_ client-1 curl -s -o /dev/null http://10.244.0.11:8080/ && exit 1
	return 0
}
mtu() {
	in_ client-1 ping -q -c 2 -i 0.01 -M do -s 1400 10.96.0.30 >/dev/null && exit 1
	in_ client-1 ping -q -c 2 -i 0.01 -s 1400 fd00:96::30 >/dev/null || true # the first is too big, the second is in fragments
	in_ client-1 curl -sf -o /dev/null http://10.96.0.30:8080/
	in_ client-1 curl -sf -o /dev/null 'http://[fd00:96::30]:8080/'
}
nodeport() {
	in_ client-1 curl -sf -o /dev/null http://192.0.2.10:31050/
	in_ client-1 socat -u TCP4:192.0.2.10:22 - | grep -q SSH
	in_ vhost0 curl -sf -o /dev/null http://10.244.0.12:8080/
	in_ vhost0 curl -sf -o /dev/null 'http://[fd00:244::12]:8080/'
}

only="$*"
start_world
start_servers
fixture http http
fixture dns dns
fixture iperf3 iperf
fixture ping ping_
fixture traceroute trace
fixture ssh-like ssh_like
fixture fragments fragments
fixture hairpin hairpin
fixture refused refused
fixture mtu mtu
fixture nodeport nodeport
du -sh "$root/testdata/pcap"
