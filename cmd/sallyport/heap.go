package main

import (
	"os"
)

// heapFloor is from which size on the heap is collected. Without it a server with a
// heap of a few MiB collects hundreds of times a second: a tenth of its time.
const heapFloor = 64 << 20

// keepHeap makes the collector wait until the heap has grown by heapFloor, or by what
// is in use if that is more. It returns what does that: memory that is never touched,
// which takes addresses and no memory, and which the caller keeps. Whoever has set
// GOGC or GOMEMLIMIT knows better, and gets nil.
func keepHeap() []byte {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	return make([]byte, heapFloor)
}
