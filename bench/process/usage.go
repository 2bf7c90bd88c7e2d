package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// Usage is what a process has taken, its children that run included.
type Usage struct {
	// CPU is the time of all its threads in user and kernel mode. The kernel tells
	// it in steps of 10 ms.
	CPU time.Duration
	// RSS is the memory that is resident, in bytes; of children that share memory
	// each counts its own whole.
	RSS uint64
	// PeakRSS is the most that RSS has been; of several processes the sum of their
	// peaks.
	PeakRSS uint64
	// Threads and Descriptors are those open.
	Threads     int
	Descriptors int
}

// Usage reads what the process and its children have taken.
func (p *Process) Usage() (Usage, error) { return Read(p.PID()) }

// Self reads what this process has taken, without its children.
func Self() (Usage, error) { return readOne(os.Getpid()) }

// Read reads what any process and its children have taken.
func Read(pid int) (Usage, error) {
	sum, err := readOne(pid)
	if err != nil {
		return Usage{}, err
	}
	for _, child := range children(pid) {
		u, err := Read(child)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return Usage{}, err
		}
		sum.CPU += u.CPU
		sum.RSS += u.RSS
		sum.PeakRSS += u.PeakRSS
		sum.Threads += u.Threads
		sum.Descriptors += u.Descriptors
	}
	return sum, nil
}

func readOne(pid int) (Usage, error) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return Usage{}, fmt.Errorf("read usage: %w", err)
	}
	stat, err1 := proc.Stat()
	status, err2 := proc.NewStatus()
	descriptors, err3 := proc.FileDescriptorsLen()
	if err := errors.Join(err1, err2, err3); err != nil {
		return Usage{}, fmt.Errorf("read usage of process %d: %w", pid, err)
	}
	return Usage{
		CPU:         time.Duration(stat.CPUTime() * float64(time.Second)),
		RSS:         status.VmRSS,
		PeakRSS:     status.VmHWM,
		Threads:     stat.NumThreads,
		Descriptors: descriptors,
	}, nil
}

// ResetPeak makes PeakRSS of a process begin anew.
func (p *Process) ResetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.PID()), []byte("5"), 0o600)
}

// children are the processes that pid has started and that run.
func children(pid int) []int {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // none if it has ended
	var pids []int
	for _, task := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}
