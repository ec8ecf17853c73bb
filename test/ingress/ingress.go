// Package ingress runs `vrkube ingress` against a real API server.
package ingress

// User of the API server's token, for RBAC.
const User = "vrouter-ingress"

// Command is the command line of `vrkube ingress` for a namespace of a test: as root,
// so that it gives root up, with the directory, which must be short, for its sockets.
// Health is on the Unix socket health.sock there. Run it in the namespace that is the
// pod's.
func Command(vrkube, kubeconfig, directory string, more ...string) []string {
	return append([]string{vrkube, "ingress", "--kubeconfig", kubeconfig, "--directory", directory, "--metrics", "unix:" + directory + "/health.sock",
		"--reload-interval", "50ms", "--shutdown-delay", "200ms", "--stop-timeout", "5s", "--max-connections", "1000", "--log-level", "debug"}, more...)
}

// Rules is what RBAC must allow the user, but for Secrets: those by their names.
const Rules = `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"vrouter-ingress"},"rules":[
 {"apiGroups":["networking.k8s.io"],"resources":["ingresses","ingressclasses"],"verbs":["get","list","watch"]},
 {"apiGroups":["networking.k8s.io"],"resources":["ingresses/status"],"verbs":["patch"]},
 {"apiGroups":[""],"resources":["services"],"verbs":["get","list","watch"]},
 {"apiGroups":["discovery.k8s.io"],"resources":["endpointslices"],"verbs":["get","list","watch"]},
 {"apiGroups":[""],"resources":["events"],"verbs":["create","patch"]}]}`
