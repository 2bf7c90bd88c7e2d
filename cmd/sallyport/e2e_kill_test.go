package main_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// killsEnv is how often the server is killed, for example 100; default 20 times.
const killsEnv = "SALLYPORT_AUDIT_KILLS"

// TestKilledUnderLoad kills the server in the middle of its work, over and over:
// what it answered is on record, once, and the records fit together.
func TestKilledUnderLoad(t *testing.T) {
	rounds := 20
	if env := os.Getenv(killsEnv); env != "" {
		n, err := strconv.Atoi(env)
		must(t, err)
		rounds = n
	}
	dir := shortDir(t)
	write(t, dir+"/policy.yaml", generous)
	// Small segments, so that some deaths come while one follows another.
	write(t, dir+"/sallyport.yaml", strings.Replace(config, "  directory: audit\n", "  directory: audit\n  segment_bytes: 65536\n", 1))
	answers := &answers{codes: map[string]codes.Code{}}
	for range rounds {
		s := startDev(t, dir)
		load := answers.load(t, s, "clinic", "clinic", "intern")
		load.warm(t, s)
		<-time.After(rand.N(300 * time.Millisecond)) // somewhere in its work
		s.kill()
		load.stop()
	}
	// It starts once more, and so mends what the last end left.
	s := startDev(t, dir)
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}

	recorded := map[string]*auditv1.Record{}
	for _, r := range s.records(t) {
		if r.GetKind() != auditv1.Kind_KIND_CALL {
			continue
		}
		if recorded[r.GetCallId()] != nil {
			t.Errorf("call %s is on record twice", r.GetCallId())
		}
		recorded[r.GetCallId()] = r
	}
	count := map[codes.Code]int{}
	for id, code := range answers.codes {
		count[code]++
		switch r := recorded[id]; {
		case r == nil:
			t.Errorf("call %s was answered with %v and is not on record", id, code)
		case codes.Code(r.GetCode()) != code:
			t.Errorf("call %s was answered with %v, its record says %v", id, code, codes.Code(r.GetCode()))
		}
	}
	t.Logf("answered: %v; on record: %d", count, len(recorded))
	if count[codes.OK] < 4*rounds || count[codes.PermissionDenied] < 2*rounds {
		t.Errorf("answered: %v; there was no load", count)
	}
	if out, err := exec.Command("sallyport", "audit", "verify", dir+"/audit").CombinedOutput(); err != nil {
		t.Errorf("audit verify: %v\n%s", err, out)
	}
}

// answers are the status codes of the calls that were answered, by call id.
type answers struct {
	mu    sync.Mutex // guards codes
	codes map[string]codes.Code
}

func (a *answers) add(id string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.codes[id] = status.Code(err)
}

// load is workloads that call without a pause.
type load struct {
	cancel  context.CancelFunc
	calling sync.WaitGroup
	callers int
	warmed  chan struct{} // gets a value at the first answer to each
}

// load has each workload make unary calls, and streams beside them.
func (a *answers) load(t *testing.T, s *server, workloads ...string) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, callers: 2 * len(workloads), warmed: make(chan struct{}, 2*len(workloads))}
	for _, name := range workloads {
		w := s.as(t, name)
		unary := func() (string, error) { return w.predict(ctx, breastCancer) }
		stream := func() (string, error) { return w.streamOnce(ctx, breastCancer) }
		for _, call := range []func() (string, error){unary, stream} {
			l.calling.Go(func() {
				for warm := false; ctx.Err() == nil; {
					id, err := call()
					if id == "" {
						continue // the server is gone, or not quite there
					}
					a.add(id, err)
					if !warm {
						warm = true
						l.warmed <- struct{}{}
					}
				}
			})
		}
	}
	return l
}

// warm waits until each has been answered.
func (l *load) warm(t *testing.T, s *server) {
	t.Helper()
	timeout := time.After(patience)
	for range l.callers {
		select {
		case <-l.warmed:
		case <-s.ended:
			l.stop()
			t.Fatal("the server ended by itself")
		case <-timeout:
			l.stop()
			t.Fatal("no answer")
		}
	}
}

func (l *load) stop() {
	l.cancel()
	l.calling.Wait()
}

// streamOnce is predict over a stream, which is answered once it has ended.
func (c *caller) streamOnce(ctx context.Context, name string) (id string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, _, err := c.open(ctx, name)
	if err != nil {
		return refusedCall(err), err
	}
	if err := errors.Join(stream.Send(batch(1, 1)), stream.CloseSend()); err != nil {
		return "", err
	}
	for {
		if _, err = stream.Recv(); err != nil {
			break
		}
	}
	if !errors.Is(err, io.EOF) {
		return refusedCall(err), err
	}
	header, err := stream.Header()
	if ids := header.Get(interceptors.CallIDHeader); len(ids) == 1 {
		return ids[0], err
	}
	return "", err
}
