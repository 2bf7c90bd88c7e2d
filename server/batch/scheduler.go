// Package batch decides when a request to a model runs and with which others: it
// waits for its turn, and where the model's owner says so, requests that wait at the
// same time are run as one.
package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/schedule"
)

// Config tells how models are run. Its zero value is usable.
type Config struct {
	// Concurrency is how many runs, of all models together, go on at a time; 0
	// is one a processor.
	Concurrency int
	// Queue is how many calls may wait for their turn, and as many batches of
	// streams; 0 is 256. When it is full the caller that has most of it gives way to
	// others.
	Queue int
	// MaxDelay bounds how long calls wait for their turn, as schedule.Queue says; 0
	// is 100 ms.
	MaxDelay time.Duration
	// Waited is told of each request that had to wait for its run, when that begins;
	// ctx is that of Run. It must not block. Optional.
	Waited func(ctx context.Context, model string, d time.Duration)
	// Merged is told of each run of merged requests, and with err that it failed, so
	// that each was run by itself. It must not block. Optional.
	Merged func(model string, requests int, rows int64, err error)
}

// Scheduler runs models. It is safe for concurrent use.
type Scheduler struct {
	cfg   Config
	turns *schedule.Queue
	lobby lobby
	apart apart
}

// Request is a run of a model that is asked for.
type Request struct {
	// Version is on loan until Run returns.
	Version *model.Version
	// Caller is whose run it is; turns go round between callers, told apart by their
	// names alone.
	Caller string
	// Stream says that it is a batch of a stream: calls go before it.
	Stream bool
	// Inputs satisfy the version's contract, of which Rows is the number of rows. They
	// are read, not kept.
	Inputs map[string]*model.Tensor
	Rows   int64
	// Outputs are the names of those asked for; all if there are none.
	Outputs []string
}

// ErrOverloaded says that as much waits for models as may, and that the caller has
// its share of it. It comes as an *OverloadedError.
var ErrOverloaded = errors.New("too much of the caller waits for models")

// OverloadedError is ErrOverloaded, with how long the wait would be.
type OverloadedError struct {
	// Wait is an estimate.
	Wait time.Duration
}

func (e *OverloadedError) Error() string {
	return fmt.Sprintf("%v: a run would begin in about %v", ErrOverloaded, e.Wait.Round(time.Microsecond))
}

// Is tells that it is ErrOverloaded.
func (e *OverloadedError) Is(target error) bool { return target == ErrOverloaded }

// New returns a scheduler.
func New(cfg Config) (*Scheduler, error) {
	cfg.Concurrency = cmp.Or(cfg.Concurrency, runtime.GOMAXPROCS(0))
	cfg.Queue = cmp.Or(cfg.Queue, 256)
	cfg.MaxDelay = cmp.Or(cfg.MaxDelay, 100*time.Millisecond)
	if cfg.Waited == nil {
		cfg.Waited = func(context.Context, string, time.Duration) {}
	}
	if cfg.Merged == nil {
		cfg.Merged = func(string, int, int64, error) {}
	}
	turns, err := schedule.New(schedule.Config{Turns: cfg.Concurrency, Waiters: cfg.Queue, MaxDelay: cfg.MaxDelay})
	if err != nil {
		return nil, fmt.Errorf("batch: %w", err)
	}
	return &Scheduler{cfg: cfg, turns: turns, lobby: lobby{jobs: make(map[key][]*job)}}, nil
}

// Run waits for the request's turn, runs it, and returns the outputs, which are the
// caller's, and how long the model ran for it: of a run of merged requests that is its
// part by rows. When ctx ends it returns ctx's error, though a run of others goes on.
// The error wraps model.ErrNotStarted if the model did not begin to run,
// ErrOverloaded if the request may not wait, and is the Runner's otherwise: a request
// that fails by itself, and no other, has its error.
func (s *Scheduler) Run(ctx context.Context, r Request) (_ map[string]*model.Tensor, ran time.Duration, err error) {
	b := r.Version.Batching
	if b == nil || r.Rows >= b.MaxRows {
		return s.alone(ctx, r)
	}
	j := s.newJob(ctx, r)
	if b.MaxDelay > 0 && !s.lobby.wait(j) {
		return j.wait()
	}
	turn, err := s.acquire(ctx, schedule.Request{Caller: r.Caller, Batch: r.Stream, Key: j.key, Work: j, Size: r.Rows})
	switch {
	case errors.Is(err, schedule.ErrTaken):
		return j.wait()
	case err != nil:
		return nil, 0, err
	}
	return s.lead(turn, j)
}

// alone runs a request by itself.
func (s *Scheduler) alone(ctx context.Context, r Request) (map[string]*model.Tensor, time.Duration, error) {
	turn, err := s.acquire(ctx, schedule.Request{Caller: r.Caller, Batch: r.Stream})
	if err != nil {
		return nil, 0, err
	}
	defer turn.Release()
	if d := turn.Waited(); d > 0 {
		s.cfg.Waited(ctx, r.Version.Name, d)
	}
	return run(ctx, r)
}

func run(ctx context.Context, r Request) (map[string]*model.Tensor, time.Duration, error) {
	begun := time.Now()
	outputs, err := r.Version.Runner.Run(ctx, r.Inputs, r.Outputs)
	return outputs, time.Since(begun), err
}

// acquire waits for a turn. Its errors say that nothing ran, but for
// schedule.ErrTaken.
func (s *Scheduler) acquire(ctx context.Context, r schedule.Request) (schedule.Turn, error) {
	turn, err := s.turns.Acquire(ctx, r)
	var full *schedule.FullError
	switch {
	case err == nil, errors.Is(err, schedule.ErrTaken):
		return turn, err
	case errors.As(err, &full):
		err = &OverloadedError{Wait: full.Wait}
	}
	return turn, notStarted(err)
}

func notStarted(err error) error { return fmt.Errorf("%w: %w", model.ErrNotStarted, err) }

// Waiting is how many requests wait for their turn.
func (s *Scheduler) Waiting() int { return s.turns.Waiting() }

// Running is how many runs go on.
func (s *Scheduler) Running() int { return s.turns.Running() }
