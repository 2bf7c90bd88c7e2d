package grow

import (
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// timed is how many seconds f takes: what a tenth of the times within a budget, five
// at least, do not exceed, as all that disturbs makes it longer.
func timed(budget time.Duration, f func() error) (float64, error) {
	var times []float64
	for begin := time.Now(); len(times) < 5 || time.Since(begin) < budget && len(times) < 1000; {
		start := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start).Seconds())
	}
	slices.Sort(times)
	return times[len(times)/10], nil
}

// looked is how many seconds of the processor one of very short operations takes,
// each given its number: the best of some rounds.
func looked(budget time.Duration, operation func(i int) error) (float64, error) {
	runtime.LockOSThread() // whose time is read
	defer runtime.UnlockOSThread()
	const rounds = 5
	n, best := 1024, 0.0
	for round := 0; round < rounds; {
		start, err := threadTime()
		if err != nil {
			return 0, err
		}
		for i := range n {
			if err := operation(i); err != nil {
				return 0, err
			}
		}
		end, err := threadTime()
		if err != nil {
			return 0, err
		}
		took := end - start
		if took < budget/rounds {
			n *= 2
			continue
		}
		if each := took.Seconds() / float64(n); best == 0 || each < best {
			best = each
		}
		round++
	}
	return best, nil
}

// threadTime is the processor time that this thread has had: what others do to
// the machine is not in it.
func threadTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// heap is the bytes that are reachable.
func heap() float64 {
	runtime.GC()
	runtime.GC() // what the first has finalized
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
