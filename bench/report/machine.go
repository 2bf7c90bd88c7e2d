// Package report writes down what was measured: tables in Markdown, plots in SVG,
// and on what machine.
package report

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Machine is what a measurement is true of.
type Machine struct {
	Date               time.Time
	Commit, Kernel     string
	Processor          string
	Processors         int
	Memory             uint64 // bytes
	Go, GRPC, Protobuf string
	ONNXRuntime        string
	// Sync is how long the disk takes to make half a kilobyte durable: what a
	// record waits for that is REQUIRED. Median and 99th of a hundred.
	Sync, SlowSync time.Duration
	// Load is the load average of the last minute before it was measured: 0 on a
	// machine that does nothing else.
	Load float64
}

// Look finds out, with the repository in root and the disk of dir.
func Look(ctx context.Context, root, dir, onnxruntime string) (*Machine, error) {
	m := &Machine{Date: time.Now().UTC(), Processors: runtime.NumCPU(), Go: runtime.Version(), ONNXRuntime: onnxruntime}
	m.Commit = commit(ctx, root)
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return nil, err
	}
	if cpus, err := fs.CPUInfo(); err == nil && len(cpus) > 0 {
		m.Processor = cpus[0].ModelName
	}
	if memory, err := fs.Meminfo(); err == nil && memory.MemTotalBytes != nil {
		m.Memory = *memory.MemTotalBytes
	}
	if load, err := fs.LoadAvg(); err == nil {
		m.Load = load.Load1
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.Kernel = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
	}
	m.GRPC, m.Protobuf = module("google.golang.org/grpc"), module("google.golang.org/protobuf")
	m.Sync, m.SlowSync, err = syncTime(dir)
	return m, err
}

// commit is that of the repository, marked if files differ from it.
func commit(ctx context.Context, root string) string {
	out, err := exec.CommandContext(ctx, "git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").Output() //nolint:gosec // the caller names its own repository
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func module(path string) string {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return "unknown"
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return m.Version
		}
	}
	return "unknown"
}

// syncTime measures the disk of dir.
func syncTime(dir string) (median, slow time.Duration, err error) {
	f, err := os.CreateTemp(dir, "sync")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = os.Remove(filepath.Clean(f.Name())) }()
	defer func() { _ = f.Close() }()
	times := make([]time.Duration, 100)
	for i := range times {
		start := time.Now()
		if _, err := f.Write(make([]byte, 512)); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times)
	return times[len(times)/2], times[len(times)*99/100], nil
}

// Markdown is the machine as a table.
func (m *Machine) Markdown() string {
	t := NewTable("", "")
	for _, row := range [][2]string{
		{"Date", m.Date.Format("2006-01-02 15:04 UTC")},
		{"Commit", m.Commit},
		{"Processor", fmt.Sprintf("%s, %d cores for servers and client together", m.Processor, m.Processors)},
		{"Memory", fmt.Sprintf("%.0f GiB", float64(m.Memory)/(1<<30))},
		{"System", m.Kernel},
		{"Go, gRPC, Protobuf", m.Go + ", " + m.GRPC + ", " + m.Protobuf},
		{"ONNX Runtime", m.ONNXRuntime},
		{"fsync of 512 bytes", fmt.Sprintf("%s (99 %%: %s)", Duration(m.Sync), Duration(m.SlowSync))},
		{"Load average before", fmt.Sprintf("%.2f", m.Load)},
	} {
		t.Row(row[0], row[1])
	}
	return t.String()
}
