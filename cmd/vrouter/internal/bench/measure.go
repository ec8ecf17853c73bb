package bench

import (
	"golang.org/x/sys/unix"
)

// cpuTime returns the CPU time that the calling thread has used, in nanoseconds.
// Unlike wall time it does not count what other processes of the machine took.
func cpuTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // cannot fail: the clock and the address are valid
	return t.Nano()
}

// pin keeps the calling thread on one of the processors that it may use, the i'th
// from the end, where the system allows it.
func pin(i int) {
	var may, one unix.CPUSet
	if unix.SchedGetaffinity(0, &may) != nil || may.Count() == 0 {
		return
	}
	i %= may.Count()
	for cpu := len(may)*64 - 1; cpu >= 0; cpu-- {
		if !may.IsSet(cpu) {
			continue
		}
		if i--; i < 0 {
			one.Set(cpu)
			_ = unix.SchedSetaffinity(0, &one) // not allowed: the kernel chooses
			return
		}
	}
}
