package peer

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vrouter-go/vrouter/internal/netns"
)

// Usage is a reading of the counters that tell what a load cost and where packets
// were lost. Take one before and one after.
type Usage struct {
	at     time.Time
	cores  []core
	spent  map[string]float64 // seconds of processor time: forwarder, servers, client, ksoftirqd
	counts map[string]float64
}

// core is the processor time of one core since boot, in seconds. The kernel
// measures idle and samples the rest at its ticks, so how busy a core was is told
// by idle. Going to sleep and waking up is not idle and is in no sample.
type core struct{ idle, ran, softirq, stolen float64 }

// tick is the unit of /proc/stat: USER_HZ is 100 on every
// platform of Linux that Go knows.
const tick = 0.01

// Usage reads the counters.
func (p *Peer) Usage(ctx context.Context) (Usage, error) {
	u := Usage{counts: map[string]float64{}, spent: map[string]float64{}}
	for _, ns := range p.namespaces() {
		role := strings.TrimPrefix(ns, netns.Name(Prefix, p.Name)+"-")
		err := netns.Do(ns, func() error { return u.readNamespace(role) })
		if err != nil {
			return u, err
		}
	}
	if p.drops != nil {
		more, err := p.drops(ctx)
		if err != nil {
			return u, err
		}
		maps.Copy(u.counts, more)
	}
	if err := u.readSoftnet(); err != nil {
		return u, err
	}
	return u, u.readClocks(p)
}

// readClocks reads time and processor time, all at once.
func (u *Usage) readClocks(p *Peer) error {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return err
	}
	u.at = time.Now()
	if u.cores, err = parseCores(string(text)); err != nil {
		return err
	}
	u.spent["client"] = p.spent.Seconds()
	for _, g := range p.programs {
		seconds, err := processTime(g.cmd.Process.Pid)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", g.name, err, tail(g.log))
		}
		u.spent[p.part(g)] += seconds
	}
	for _, pid := range p.softirqd {
		seconds, err := processTime(pid)
		if err != nil {
			return err
		}
		u.spent["ksoftirqd"] += seconds
	}
	return nil
}

// part returns what a program is in its world.
func (p *Peer) part(g *program) string {
	switch {
	case slices.Contains(p.forwarders, g):
		return "forwarder"
	case slices.Contains(p.temporary, g):
		return "client"
	}
	return "servers"
}

// processTime returns the processor time of a process and its children, in
// seconds: the first number in each thread's schedstat is its nanoseconds.
func processTime(pid int) (float64, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, t := range threads {
		text, err := os.ReadFile(filepath.Join(dir, t.Name(), "schedstat"))
		if err != nil {
			continue // it has ended
		}
		var nanos int64
		if _, err := fmt.Sscan(string(text), &nanos); err != nil {
			return 0, fmt.Errorf("schedstat of process %d: %w", pid, err)
		}
		sum += float64(nanos) / 1e9
		children, _ := os.ReadFile(filepath.Join(dir, t.Name(), "children")) // not in every kernel
		for child := range strings.FieldsSeq(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				seconds, _ := processTime(n) // it may have ended
				sum += seconds
			}
		}
	}
	return sum, nil
}

// softirqThreads returns the process numbers of ksoftirqd/0 and so on, where
// packets are processed that no program is there to be charged for.
func softirqThreads() []int {
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, file := range files {
		name, err := os.ReadFile(file)
		if err != nil || !strings.HasPrefix(string(name), "ksoftirqd/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parseCores reads the lines of /proc/stat that begin with cpu and a number:
// user nice system idle iowait irq softirq steal, see proc_stat(5).
func parseCores(text string) ([]core, error) {
	var cores []core
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 9 || !strings.HasPrefix(f[0], "cpu") || f[0] == "cpu" {
			continue
		}
		var v [8]float64
		for i := range v {
			n, err := strconv.ParseFloat(f[i+1], 64)
			if err != nil {
				return nil, fmt.Errorf("/proc/stat: %q: %w", line, err)
			}
			v[i] = n * tick
		}
		cores = append(cores, core{idle: v[3] + v[4], ran: v[0] + v[1] + v[2] + v[5] + v[6], softirq: v[6], stolen: v[7]})
	}
	return cores, nil
}

// readSoftnet reads what the cores' queues of received packets had no room for:
// the second hexadecimal column of each line.
func (u *Usage) readSoftnet() error {
	text, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseUint(f[1], 16, 64)
		if err != nil {
			return fmt.Errorf("softnet_stat: %w", err)
		}
		u.counts["drops/softnet"] += float64(n)
	}
	return nil
}

// protocolDrops are the counters of /proc/net/snmp and netstat that mean a loss,
// and how they are called here.
var protocolDrops = map[string]string{
	"Udp.RcvbufErrors":           "drops/%s/udp-receive-buffer",
	"Udp.SndbufErrors":           "drops/%s/udp-send-buffer",
	"Tcp.RetransSegs":            "tcp-retransmits/%s",
	"TcpExt.ListenDrops":         "drops/%s/tcp-listen",
	"TcpExt.TCPBacklogDrop":      "drops/%s/tcp-backlog",
	"TcpExt.TCPRcvQDrop":         "drops/%s/tcp-receive-queue",
	"Ip.InDiscards":              "drops/%s/ip-in",
	"Ip.OutDiscards":             "drops/%s/ip-out",
	"TcpExt.TCPTimeWaitOverflow": "tcp-time-wait-overflow/%s",
}

// readNamespace reads the counters of the calling thread's namespace.
func (u *Usage) readNamespace(role string) error {
	const dir = "/proc/thread-self/net"
	devices, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return err
	}
	for name, v := range parseDevices(string(devices)) {
		u.counts["drops/"+role+"/"+name+"/rx"] += v[0]
		u.counts["drops/"+role+"/"+name+"/tx"] += v[1]
	}
	for _, file := range []string{"snmp", "netstat"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		for name, v := range parseProtocols(string(text)) {
			if format, ok := protocolDrops[name]; ok {
				u.counts[fmt.Sprintf(format, role)] += v
			}
		}
	}
	tracking, err := os.ReadFile(filepath.Join(dir, "stat/nf_conntrack"))
	if err != nil {
		return nil // a kernel without
	}
	for name, v := range parseTracking(string(tracking)) {
		if slices.Contains([]string{"drop", "early_drop", "insert_failed"}, name) {
			u.counts["drops/"+role+"/conntrack-"+name] += v
		}
	}
	return nil
}

// parseTracking adds up the lines, one for each core, of hexadecimal counters
// under a line of their names.
func parseTracking(text string) map[string]float64 {
	sums := map[string]float64{}
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if names == nil {
			names = f
			continue
		}
		for i, v := range f {
			if n, err := strconv.ParseUint(v, 16, 64); err == nil && i < len(names) {
				sums[names[i]] += float64(n)
			}
		}
	}
	return sums
}

// parseDevices returns the packets that devices dropped, received and sent ones,
// from /proc/net/dev: the fourth and the twelfth column after the name.
func parseDevices(text string) map[string][2]float64 {
	devices := map[string][2]float64{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 16 {
			continue
		}
		rx, _ := strconv.ParseFloat(f[3], 64)
		tx, _ := strconv.ParseFloat(f[11], 64)
		devices[name] = [2]float64{rx, tx}
	}
	return devices
}

// parseProtocols reads pairs of lines, names and values, as "Udp.InErrors".
func parseProtocols(text string) map[string]float64 {
	values := map[string]float64{}
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		names := strings.Fields(lines.Text())
		if !lines.Scan() {
			break
		}
		for i, v := range strings.Fields(lines.Text()) {
			if n, err := strconv.ParseFloat(v, 64); err == nil && i < len(names) {
				values[strings.TrimSuffix(names[0], ":")+"."+names[i]] = n
			}
		}
	}
	return values
}

// Seconds returns the time since before.
func (u Usage) Seconds(before Usage) float64 { return u.at.Sub(before.at).Seconds() }

// Spent returns the processor time that the world's programs and the kernel's
// softirq threads spent since before, in seconds. What else runs on the machine
// does not count.
func (u Usage) Spent(before Usage) float64 {
	sum := 0.0
	for who, seconds := range u.spent {
		sum += seconds - before.spent[who]
	}
	return sum
}

// busy returns the seconds since before that one core worked.
func (u Usage) busy(before Usage, i int) float64 {
	c, b := u.cores[i], before.cores[i]
	return max(0, u.Seconds(before)-(c.idle-b.idle)-(c.stolen-b.stolen))
}

// Since says what happened since before: processor time in percent of a core, and
// each counter that moved. cpu/foreign is what had nothing to do with the world:
// on a quiet machine some percent, interrupts and this program.
func (u Usage) Since(before Usage) map[string]float64 {
	percent := 100 / u.Seconds(before)
	detail := map[string]float64{}
	softirq, stolen, foreign := 0.0, 0.0, -u.Spent(before)
	for i := range u.cores {
		foreign += u.cores[i].ran - before.cores[i].ran
		detail[fmt.Sprintf("cpu/core-%d", i)] = percent * u.busy(before, i)
		softirq += u.cores[i].softirq - before.cores[i].softirq
		stolen += u.cores[i].stolen - before.cores[i].stolen
	}
	detail["cpu/softirq"], detail["cpu/stolen"] = percent*softirq, percent*stolen
	detail["cpu/foreign"] = max(0, percent*foreign)
	for who, seconds := range u.spent {
		detail["cpu/"+who] = percent * (seconds - before.spent[who])
	}
	for name, v := range u.counts {
		if d := v - before.counts[name]; d != 0 {
			detail[name] = d
		}
	}
	return detail
}
