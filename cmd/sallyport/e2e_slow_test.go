package main_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Callers that send and never read get no more memory than their windows, and
// are in nobody's way.
func TestSlowReaders(t *testing.T) {
	const (
		readers = 8
		rows    = 4096
		size    = rows * 30 * 4
		// most is twice the window and the 16 MiB that flow control lets grow.
		most = 90
	)
	dir := shortDir(t)
	write(t, dir+"/policy.yaml", generous)
	s := startDev(t, dir)
	if _, err := s.as(t, "clinic").predict(t.Context(), breastCancer); err != nil {
		t.Fatal(err)
	}
	before := s.metrics(t).value("process_resident_memory_bytes")

	ctx, cancel := context.WithCancel(t.Context())
	var sending sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		sending.Wait()
	})
	var sent atomic.Int64
	for range readers {
		stream, _, err := s.as(t, "clinic").open(ctx, breastCancer)
		if err != nil {
			t.Fatal(err)
		}
		sending.Go(func() {
			for sequence := uint64(1); stream.Send(batch(sequence, rows)) == nil; sequence++ {
				if sent.Add(1) > readers*most {
					return
				}
			}
		})
	}
	// They come to a stop by themselves.
	last, since := int64(0), time.Now()
	eventually(t, func() error {
		now := sent.Load()
		if now != last {
			last, since = now, time.Now()
		}
		if now < readers || time.Since(since) < 2*time.Second {
			return fmt.Errorf("%d batches of %d bytes sent, and more", now, size)
		}
		return nil
	})
	if last > readers*most {
		t.Fatalf("the server took %d batches of %d bytes and had no end", last, size)
	}
	grown := s.metrics(t).value("process_resident_memory_bytes") - before
	t.Logf("%d batches of %d bytes sent; the server grew by %.0f MiB", last, size, grown/(1<<20))
	if grown > readers*most*size {
		t.Errorf("the server grew by %.0f MiB", grown/(1<<20))
	}
	other := s.as(t, "clinic")
	for range 20 {
		if _, err := other.predict(t.Context(), breastCancer); err != nil {
			t.Fatal(err)
		}
	}
}
