package bench

import (
	"cmp"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// cpuTime returns the CPU time that the calling thread has used, in nanoseconds.
// Unlike wall time it does not count what other processes of the machine took.
func cpuTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // cannot fail: the clock and the address are valid
	return t.Nano()
}

// pin keeps the calling thread on the i'th of the processors that the process may
// use, counted from the last, where the system allows it, and returns what undoes
// that.
func pin(i int) (undo func()) {
	var was, one unix.CPUSet
	if unix.SchedGetaffinity(0, &was) != nil || was.Count() == 0 {
		return func() {}
	}
	i %= was.Count()
	for cpu := len(was)*64 - 1; cpu >= 0 && one.Count() == 0; cpu-- {
		if was.IsSet(cpu) {
			if i == 0 {
				one.Set(cpu)
			}
			i--
		}
	}
	_ = unix.SchedSetaffinity(0, &one) // not allowed: the kernel chooses
	return func() { _ = unix.SchedSetaffinity(0, &was) }
}

// kilobytes returns a field of a file like /proc/meminfo in bytes, 0 if it is not
// there.
func kilobytes(file, name string) (n int) {
	if _, err := fmt.Sscan(field(file, name), &n); err != nil {
		return 0
	}
	return n << 10
}

// processor names the processor's model.
func processor() string {
	return cmp.Or(field("/proc/cpuinfo", "model name"), "processor of unknown model")
}

// field returns a field of a file that has one in each line, "" if it has not.
func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
