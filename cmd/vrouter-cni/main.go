// vrouter-cni is the CNI plugin of the vrouter: it connects containers to the agent of
// their node. It holds no state and makes no device itself; the agent does.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/vrouter-go/vrouter/internal/cnifiles"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "install" {
		if err := install(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "vrouter-cni install:", err)
			os.Exit(1)
		}
		return
	}
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: collect, Status: status},
		version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), "CNI plugin vrouter-cni "+release())
}

// install puts the plugin and its configuration where container runtimes look for
// them: what the init container of the DaemonSet does.
func install(args []string) error {
	files, err := cnifiles.FromFlags(args)
	if err != nil {
		return err
	}
	return files.Install()
}

// release is the version of the build.
func release() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
