#!/bin/sh
# Installs the Debian packages that the tests against a real Kubernetes need beside
# those of test/deps.sh. Without root it says what will be skipped and goes on.
#
# etcd-server is the apiserver's store; containernetworking-plugins (ptp, host-local) joins
# the pods of the kube-proxy twin to their node's kernel; haproxy serves Ingresses.
set -eu
exec "$(dirname "$0")/deps.sh" etcd-server containernetworking-plugins haproxy
