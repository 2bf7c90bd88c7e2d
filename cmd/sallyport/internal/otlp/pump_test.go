package otlp_test

import (
	"context"
	"errors"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/otlp"
	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// wholeFrom checks that got has every number from one to another, in order but
// for what was sent again.
func wholeFrom(t *testing.T, got []int64, from, to int64) (again int) {
	t.Helper()
	next := from
	for _, n := range got {
		if n > next {
			t.Fatalf("after %d comes %d", next-1, n)
		}
		if n < next {
			again++
		}
		next = max(next, n+1)
	}
	if next != to+1 {
		t.Fatalf("the last is %d, want %d", next-1, to)
	}
	return again
}

func TestPump(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := &collector{}
			address, _ := serve(t, protocol, c, "")
			p := pump(sender(t, protocol, "http://"+address))
			var cursors []uint64
			p.Match = func(r *auditv1.Record) bool { return r.GetSequence() != 3 }
			p.Dealt = func(c otlp.Cursor) error {
				cursors = append(cursors, c.Sequence)
				return nil
			}
			summary, err := p.Run(t.Context(), 1, reading(calls(1, 1200)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(otlp.Summary{Sent: 1199, Skipped: 1}, summary); diff != "" {
				t.Error(diff)
			}
			// Three, unless so little time was ours that batches were not filled.
			if len(cursors) < 3 || len(cursors) != len(c.batches) || !slices.IsSorted(cursors) || cursors[len(cursors)-1] != 1200 || slices.Max(c.batches) > 512 {
				t.Errorf("cursors %v, batches of %v", cursors, c.batches)
			}
			got := c.sequences()
			if i := slices.Index(got, 4); i != 2 || len(got) != 1199 {
				t.Errorf("4 is at %d of %d", i, len(got))
			}
		})
	}
}

// A collector that dies with a batch half dealt with gets it again: nothing is
// missing, and only that batch comes twice.
func TestCollectorDies(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			first, second := &collector{}, &collector{}
			died := make(chan struct{})
			var stop func()
			first.answer = func(ctx context.Context, n int, _ *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
				if n == 3 {
					go func() { // stopping may wait for this very call
						stop()
						close(died)
					}()
					<-ctx.Done() // so that the answer, if it is sent, reaches nobody
				}
				return &collectorv1.ExportLogsServiceResponse{}, nil
			}
			var address string
			address, stop = serve(t, protocol, first, "")
			p := pump(sender(t, protocol, "http://"+address))
			type result struct {
				summary otlp.Summary
				err     error
			}
			ended := make(chan result, 1)
			go func() {
				summary, err := p.Run(t.Context(), 1, reading(calls(1, 5000)))
				ended <- result{summary, err}
			}()
			<-died
			serve(t, protocol, second, address)
			if r := <-ended; r.err != nil || r.summary.Sent != 5000 {
				t.Fatalf("%+v, %v", r.summary, r.err)
			}
			again := wholeFrom(t, slices.Concat(first.sequences(), second.sequences()), 1, 5000)
			if want := first.batches[2]; again != want {
				t.Errorf("%d came twice, want the %d of the batch without an acknowledgement", again, want)
			}
		})
	}
}

// What ends a run for good leaves the cursor at the last batch that was
// acknowledged, and the next run goes on there.
func TestCursorAfterFailure(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			c := &collector{answer: func(_ context.Context, n int, _ *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
				if n == 2 {
					return nil, status.Error(codes.InvalidArgument, "no such tenant")
				}
				return &collectorv1.ExportLogsServiceResponse{}, nil
			}}
			address, _ := serve(t, protocol, c, "")
			file := filepath.Join(t.TempDir(), "cursor")
			p := pump(sender(t, protocol, "http://"+address))
			p.Dealt = func(c otlp.Cursor) error { return c.Save(file) }
			summary, err := p.Run(t.Context(), 1, reading(calls(1, 1000)))
			if err == nil || !strings.Contains(err.Error(), "no such tenant") || summary.Sent == 0 || summary.Sent != uint64(len(c.sequences())) {
				t.Fatalf("%+v, %v", summary, err)
			}
			cursor, err := otlp.LoadCursor(file)
			if err != nil || cursor.Sequence != summary.Sent {
				t.Fatalf("%+v, %v", cursor, err)
			}
			from, err := cursor.Resume(func(from uint64) iter.Seq2[*auditv1.Record, error] { return calls(from, 1000) })
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Run(t.Context(), from, reading(calls(from, 1000))); err != nil {
				t.Fatal(err)
			}
			if again := wholeFrom(t, c.sequences(), 1, 1000); again != 0 {
				t.Errorf("%d came twice", again)
			}
		})
	}
}

// Records that the log lost are not passed over in silence, and an error of the
// log comes behind the records before it.
func TestPumpReadsWithGapAndError(t *testing.T) {
	tampered := errors.New("tampered")
	c := &collector{}
	address, _ := serve(t, otlp.HTTP, c, "")
	p := pump(sender(t, otlp.HTTP, "http://"+address))
	summary, err := p.Run(t.Context(), 1, reading(func(yield func(*auditv1.Record, error) bool) {
		for r, err := range calls(41, 43) {
			if err != nil {
				t.Error(err)
			}
			if !yield(r, nil) {
				return
			}
		}
		yield(nil, tampered)
	}))
	if !errors.Is(err, tampered) {
		t.Errorf("error %v, want %v", err, tampered)
	}
	if diff := cmp.Diff(otlp.Summary{Sent: 3, Missing: 40}, summary); diff != "" {
		t.Error(diff)
	}
}

// A cursor that cannot be kept ends the run: else all would come again one day.
func TestPumpWithoutCursor(t *testing.T) {
	c := &collector{}
	address, _ := serve(t, otlp.HTTP, c, "")
	p := pump(sender(t, otlp.HTTP, "http://"+address))
	full := errors.New("disk full")
	p.Dealt = func(otlp.Cursor) error { return full }
	if _, err := p.Run(t.Context(), 1, reading(calls(1, 2000))); !errors.Is(err, full) || c.requests != 1 {
		t.Errorf("%v after %d requests", err, c.requests)
	}
}

// What comes now and then is sent soon, without waiting for a full batch; and
// when the context ends, so does the run.
func TestPumpFollows(t *testing.T) {
	c := &collector{took: make(chan int)}
	address, _ := serve(t, otlp.GRPC, c, "")
	p := pump(sender(t, otlp.GRPC, "http://"+address))
	ctx, cancel := context.WithCancel(t.Context())
	more := make(chan *auditv1.Record)
	ended := make(chan error, 1)
	go func() {
		_, err := p.Run(ctx, 1, func(ctx context.Context) iter.Seq2[*auditv1.Record, error] {
			return func(yield func(*auditv1.Record, error) bool) {
				for {
					select {
					case r := <-more:
						if !yield(r, nil) {
							return
						}
					case <-ctx.Done():
						return
					}
				}
			}
		})
		ended <- err
	}()
	for r, err := range calls(1, 2) {
		if err != nil {
			t.Error(err)
		}
		more <- r
		if n := <-c.took; n != 1 {
			t.Errorf("a batch of %d", n)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func BenchmarkPump(b *testing.B) {
	for _, protocol := range protocols {
		b.Run(protocol, func(b *testing.B) {
			c := &collector{}
			address, _ := serve(b, protocol, c, "")
			p := pump(sender(b, protocol, "http://"+address))
			file := filepath.Join(b.TempDir(), "cursor")
			p.Dealt = func(c otlp.Cursor) error { return c.Save(file) }
			b.ReportAllocs()
			b.ResetTimer()
			if _, err := p.Run(b.Context(), 1, reading(calls(1, uint64(b.N)))); err != nil {
				b.Fatal(err)
			}
		})
	}
}
