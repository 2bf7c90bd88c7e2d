package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/server/schedule"
)

// fifo is the queue before this one, of all callers in one: what a turn costs is
// compared with it.
type fifo struct {
	turns   chan struct{}
	waiting atomic.Int64
	limit   int64
}

func (f *fifo) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case f.turns <- struct{}{}:
		return nil
	default:
	}
	defer f.waiting.Add(-1)
	if f.waiting.Add(1) > f.limit {
		return schedule.ErrFull
	}
	select {
	case f.turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fifo) release() { <-f.turns }

// BenchmarkTurn is a turn and its end: free, and with callers that wait for each
// other.
func BenchmarkTurn(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	f := &fifo{turns: make(chan struct{}, 2), limit: 256}
	first := func(string) error {
		err := f.acquire(ctx)
		if err == nil {
			f.release()
		}
		return err
	}
	q := newQueue(b, 2, 256)
	fair := func(caller string) error {
		turn, err := q.Acquire(ctx, schedule.Request{Caller: caller})
		if err == nil {
			turn.Release()
		}
		return err
	}
	for name, turn := range map[string]func(string) error{"fifo": first, "fair": fair} {
		b.Run("free/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := turn("spiffe://sallyport.test/clinic/triage"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("contended/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				caller := fmt.Sprintf("spiffe://sallyport.test/caller/%d", n.Add(1)%11)
				for pb.Next() {
					if err := turn(caller); err != nil && !errors.Is(err, schedule.ErrFull) {
						b.Error(err)
					}
				}
			})
		})
	}
}
