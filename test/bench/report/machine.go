package report

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Machine is what figures were measured on and with.
type Machine struct{ Facts []Fact }

// Fact is one line of a Machine.
type Fact struct{ Name, Value string }

// ThisMachine describes where we run. What cannot be found out is left out.
func ThisMachine(now time.Time) Machine {
	var m Machine
	m.add("measured", now.UTC().Format("2006-01-02 15:04 UTC"))
	cpu := first("/proc/cpuinfo", "model name")
	if flags := first("/proc/cpuinfo", "flags"); strings.Contains(" "+flags+" ", " hypervisor ") {
		cpu += ", virtual machine"
	}
	m.add("processor", fmt.Sprintf("%d × %s", runtime.NumCPU(), cpu))
	if kb, err := strconv.Atoi(strings.TrimSuffix(first("/proc/meminfo", "MemTotal"), " kB")); err == nil {
		m.add("memory", fmt.Sprintf("%d GiB", (kb+1<<19)>>20))
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.add("kernel", strings.TrimSpace(string(release)))
	m.add("system", strings.Trim(lookup("/etc/os-release", "PRETTY_NAME", "="), `"`))
	m.add("Go", runtime.Version())
	for _, p := range [][]string{{"ovs-vswitchd", "--version"}, {"nft", "--version"}, {"iperf3", "--version"}, {"wrk", "-v"}} {
		m.add(p[0], program(p))
	}
	return m
}

func (m *Machine) add(name, value string) {
	if value != "" {
		m.Facts = append(m.Facts, Fact{name, value})
	}
}

// first returns the first value of a key in a file of lines "key : value".
func first(file, key string) string { return lookup(file, key, ":") }

func lookup(file, key, separator string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), separator)
		if ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// program returns the first line of what a program says of its version; wrk says
// it and ends as if it had been misused.
func program(args []string) string {
	out, _ := exec.Command(args[0], args[1:]...).CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	line, _, _ = strings.Cut(line, " Copyright")
	return strings.TrimSpace(line)
}
