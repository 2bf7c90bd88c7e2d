package onnx_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// A model that has run for long runs with the longest slice of time, so that threads
// with less to do go first, and what runs on the thread afterwards has the usual one.
func TestLongRunsStepAside(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	if longest(t) == 0 {
		t.Skip("this kernel gives no slices")
	}
	usual := longest(t)
	m := load(t, onnxtest.Open(t), onnxtest.Countdown())
	for _, want := range []bool{false, true} { // of the first run nothing is known
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		done := start(ctx, m, forever)
		if want {
			for longest(t) <= usual {
				if ctx.Err() != nil {
					t.Fatal("no thread has a longer slice than usual")
				}
				time.Sleep(time.Millisecond)
			}
		} else {
			time.Sleep(10 * time.Millisecond) // makes it a long one
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if got := longest(t); got > usual {
			t.Errorf("after a run a thread has a slice of %v, not %v", time.Duration(got), time.Duration(usual))
		}
	}
}

// longest is the longest slice of the threads of this process.
func longest(t *testing.T) uint64 {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	slice := uint64(0)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		attr, err := unix.SchedGetAttr(tid, 0)
		if err != nil {
			continue // it has ended
		}
		slice = max(slice, attr.Runtime)
	}
	return slice
}
