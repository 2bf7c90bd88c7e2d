package main_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
)

const (
	// promise is how soon a fault of the log refuses calls and shows in the health, and
	// how soon its cure does.
	promise = time.Second
	// slack is for a machine that has much else to do.
	slack = 15 * time.Second
	// lasting is how long a fault lasts that everybody has noticed.
	lasting = time.Second
)

// fault is what happens to an audit log under load.
type fault struct {
	name string
	// inject and cure get the directory of the log.
	inject, cure func(t *testing.T, dir string)
	// patience is how long calls wait for a disk that does not answer.
	patience time.Duration
	// room says that the log may find some for a moment: what it takes back after an
	// error is room, too.
	room bool
}

// strike lets a fault happen to a server that works, and asserts what was promised:
// calls are refused with AUDIT_UNAVAILABLE and the health says so within a second,
// as long as it lasts; the server works again when it is cured, without a restart;
// and what was answered is on record, once. dir is where this process sees the log.
func strike(t *testing.T, s *server, dir string, f fault) {
	t.Helper()
	w := watch(t, s)
	defer w.stop()
	w.await(t, "answered", func(a attempt) bool { return a.code == codes.OK }, time.Now(), patience)

	f.inject(t, dir)
	struck := time.Now()
	refused := w.await(t, "refused with AUDIT_UNAVAILABLE", func(a attempt) bool {
		return a.code == codes.Unavailable && a.reason == string(interceptors.AuditUnavailable)
	}, struck, promise+f.patience+slack)
	down := w.awaitHealth(t, healthv1.HealthCheckResponse_NOT_SERVING, struck, promise+f.patience+slack)
	<-time.After(lasting)
	still := w.all()

	curing := time.Now()
	f.cure(t, dir)
	cured := time.Now()
	answered := w.await(t, "answered", func(a attempt) bool { return a.code == codes.OK }, curing, promise+slack)
	up := w.awaitHealth(t, healthv1.HealthCheckResponse_SERVING, curing, promise+slack)
	t.Logf("%s: refused after %v, NOT_SERVING after %v; cured: answered after %v, SERVING after %v", f.name,
		elapsed(struck, refused), elapsed(struck, down), elapsed(cured, answered), elapsed(cured, up))
	for _, a := range still {
		if a.begun.After(down) && a.code == codes.OK && !f.room {
			t.Errorf("call %s was answered while nothing could be recorded", a.id)
		}
	}
	w.stop()
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.onRecord(t, dir)
}

func elapsed(from, to time.Time) time.Duration {
	return max(0, to.Sub(from)).Round(time.Millisecond)
}

// attempt is one call.
type attempt struct {
	id         string
	code       codes.Code
	reason     string
	begun, end time.Time
}

// watcher calls without a pause, and watches the health.
type watcher struct {
	cancel  context.CancelFunc
	calling sync.WaitGroup

	mu       sync.Mutex // guards what follows
	attempts []attempt
	health   healthv1.HealthCheckResponse_ServingStatus
	turned   time.Time // when it became so
}

const every = 10 * time.Millisecond

func watch(t *testing.T, s *server) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watcher{cancel: cancel}
	for range 3 {
		c := s.as(t, "clinic")
		w.calling.Go(func() {
			for ctx.Err() == nil {
				begun := time.Now()
				id, err := c.predict(ctx, breastCancer)
				a := attempt{id: id, code: status.Code(err), begun: begun, end: time.Now()}
				for _, d := range status.Convert(err).Details() {
					if info, ok := d.(*errdetails.ErrorInfo); ok {
						a.reason = info.GetReason()
					}
				}
				w.mu.Lock()
				w.attempts = append(w.attempts, a)
				w.mu.Unlock()
				if err != nil {
					<-time.After(every)
				}
			}
		})
	}
	// A check is a call, too, and refused if it cannot be recorded.
	health, err := healthv1.NewHealthClient(s.as(t, "clinic").conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	w.calling.Go(func() {
		for {
			answer, err := health.Recv()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.health, w.turned = answer.GetStatus(), time.Now()
			w.mu.Unlock()
		}
	})
	return w
}

func (w *watcher) stop() {
	w.cancel()
	w.calling.Wait()
}

func (w *watcher) all() []attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.attempts)
}

// await waits for an attempt that began after a time, and returns when it ended.
func (w *watcher) await(t *testing.T, what string, wanted func(attempt) bool, after time.Time, limit time.Duration) time.Time {
	t.Helper()
	timeout := time.After(limit)
	for {
		w.mu.Lock()
		for _, a := range slices.Backward(w.attempts) {
			// Those that were under way count, too.
			if !a.end.Before(after) && wanted(a) {
				first := a.end
				for _, b := range w.attempts {
					if !b.end.Before(after) && b.end.Before(first) && wanted(b) {
						first = b.end
					}
				}
				w.mu.Unlock()
				return first
			}
		}
		w.mu.Unlock()
		select {
		case <-time.After(every):
		case <-timeout:
			t.Fatalf("no call was %s within %v", what, limit)
		}
	}
}

// awaitHealth waits until the health is so, and returns since when.
func (w *watcher) awaitHealth(t *testing.T, want healthv1.HealthCheckResponse_ServingStatus, after time.Time, limit time.Duration) time.Time {
	t.Helper()
	timeout := time.After(limit)
	for {
		w.mu.Lock()
		health, turned := w.health, w.turned
		w.mu.Unlock()
		if health == want {
			return turned
		}
		select {
		case <-time.After(every):
		case <-timeout:
			t.Fatalf("the health is %v %v later, want %v", health, time.Since(after), want)
		}
	}
}

// onRecord asserts that the log verifies and that what was answered is there once.
func (w *watcher) onRecord(t *testing.T, dir string) {
	t.Helper()
	report, err := audit.Verify(dir, audit.VerifyConfig{PublicKeys: []string{audittest.Key().Public()}})
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for r, err := range (audit.View{Dir: dir}).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if r.GetKind() == auditv1.Kind_KIND_CALL {
			times[r.GetCallId()]++
		}
	}
	count := map[codes.Code]int{}
	for _, a := range w.all() {
		count[a.code]++
		if n := times[a.id]; a.id != "" && (a.code == codes.OK && n != 1 || n > 1) {
			t.Errorf("call %s, answered with %v, is on record %d times", a.id, a.code, n)
		}
	}
	t.Logf("answered: %v; %d records in %d segments", count, report.Records, report.Segments)
}

// openSegment is the segment that is written to.
func openSegment(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("segments: %v, %v", files, err)
	}
	return slices.Max(files)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Files go away under a server, and come back.
func TestAuditFilesGoAway(t *testing.T) {
	var segment, beside string
	for _, f := range []fault{
		{
			name:   "directory removed and restored",
			inject: func(t *testing.T, dir string) { must(t, os.Rename(dir, dir+"-away")) },
			cure:   func(t *testing.T, dir string) { must(t, os.Rename(dir+"-away", dir)) },
		},
		{
			name: "directory in another's place",
			inject: func(t *testing.T, dir string) {
				must(t, os.Rename(dir, dir+"-away"))
				must(t, os.Mkdir(dir, 0o700))
			},
			cure: func(t *testing.T, dir string) {
				must(t, os.Remove(dir))
				must(t, os.Rename(dir+"-away", dir))
			},
		},
		{
			name: "open segment deleted and restored",
			inject: func(t *testing.T, dir string) {
				segment, beside = openSegment(t, dir), dir+"-segment"
				must(t, os.Rename(segment, beside))
			},
			cure: func(t *testing.T, _ string) { must(t, os.Rename(beside, segment)) },
		},
		{
			name: "open segment replaced by a copy and restored",
			inject: func(t *testing.T, dir string) {
				segment, beside = openSegment(t, dir), dir+"-segment"
				content, err := os.ReadFile(segment)
				must(t, err)
				must(t, os.Rename(segment, beside))
				must(t, os.WriteFile(segment, content[:len(content)/2], 0o600))
			},
			cure: func(t *testing.T, _ string) { must(t, os.Rename(beside, segment)) },
		},
	} {
		t.Run(f.name, func(t *testing.T) {
			dir := newSite(t, "")
			strike(t, startServe(t, dir), dir+"/audit", f)
		})
	}
}
