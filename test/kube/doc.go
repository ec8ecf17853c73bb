// Package kube holds the tests against a real Kubernetes, which `make test-kube` runs: etcd,
// kube-apiserver, kube-controller-manager and kube-proxy as they are released, nodes that
// are network namespaces, and pods that are processes in theirs. They have the build tag
// kube; test/kube/binaries.sh builds the programs once and keeps them.
package kube
