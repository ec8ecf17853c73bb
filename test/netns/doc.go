// Package netns holds the privileged end-to-end tests: the real `vrouter run` in
// network namespaces, driven over gRPC and judged by real programs and kernel
// sockets. See host_test.go for what every test starts and how every test ends.
package netns
