package onnx

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// longSlice is the longest that the kernel takes.
const longSlice = 100 * time.Millisecond

// stepAside gives this thread, until back is called, the longest slice of processor
// time that there is. What wakes up with a shorter one, as all that reads calls, refuses
// them and records them does, then runs at once, as long as it has had less than its
// share, instead of when the slice of a run ends: on busy processors each of the steps
// of a call waits for that. The thread's share of the processor stays what it was, beside
// other threads and other processes: unlike one with a lower priority, it is not starved
// by them. Any process may do so. Kernels before 6.12 give no slices, and it does nothing.
func stepAside() (back func()) {
	runtime.LockOSThread()
	was, err := unix.SchedGetAttr(0, 0)
	// A kernel that gives no slices tells 0; a thread with another policy is someone's
	// decision.
	if err != nil || was.Runtime == 0 || was.Policy != unix.SCHED_NORMAL {
		return runtime.UnlockOSThread
	}
	long := *was
	long.Runtime = uint64(longSlice)
	if err := unix.SchedSetAttr(0, &long, 0); err != nil {
		return runtime.UnlockOSThread // forbidden here, which costs speed only
	}
	return func() {
		// What is set can be set back. If it were not, some goroutines would wait a bit.
		_ = unix.SchedSetAttr(0, was, 0)
		runtime.UnlockOSThread()
	}
}
