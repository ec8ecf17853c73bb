#!/bin/sh
# Installs the Debian packages that `make bench` uses as load and as peers. A peer
# that is missing is left out, loudly; without iperf3, wrk, nginx and nftables
# there is no run.
exec "$(dirname "$0")/deps.sh" iproute2 nftables iperf3 wrk nginx-light openvswitch-switch
