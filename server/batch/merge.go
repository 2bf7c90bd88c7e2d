package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/schedule"
)

// merged is a run of several jobs.
type merged struct {
	jobs   []*job
	rows   int64
	copied chan struct{} // closed when the jobs' own inputs are not needed any more
	live   atomic.Int64  // jobs whose calls wait
	cancel context.CancelFunc
}

// leave is told that the call of a job has gone. With the last one the run ends.
func (m *merged) leave() {
	if m.live.Add(-1) == 0 {
		m.cancel()
	}
}

// errUnfinished is what a job gets that a run has left without an answer: only a
// panic does.
var errUnfinished = errors.New("the run of merged requests has panicked")

// lead runs a job that has its turn, together with those that wait and fit. It
// returns when all of them are done, whether or not its own call still waits: the
// version and the turn are held by it.
func (s *Scheduler) lead(turn schedule.Turn, own *job) (map[string]*model.Tensor, time.Duration, error) {
	var shares []schedule.Share
	defer func() { turn.ReleaseShared(shares) }()
	m := s.gather(&turn, own)
	jobs := m.jobs
	for _, j := range jobs {
		shares = append(shares, schedule.Share{Caller: j.Caller, Weight: j.Rows})
		if j != own || turn.Waited() > 0 || own.Version.Batching.MaxDelay > 0 {
			s.cfg.Waited(j.ctx, j.Version.Name, time.Since(j.arrived))
		}
	}
	if len(jobs) == 1 {
		return run(own.ctx, own.Request)
	}
	m.live.Store(int64(len(jobs)))
	defer func() {
		for _, j := range jobs {
			select {
			case <-j.done:
			default:
				j.finish(nil, 0, errUnfinished)
			}
		}
	}()
	took, err := m.run()
	s.cfg.Merged(own.Version.Name, len(jobs), m.rows, err)
	if err != nil {
		shares = s.singly(m, took)
	}
	return own.outputs, own.ran, own.err
}

// gather is the job and those to be run with it, whose inputs stay where they are
// from then on.
func (s *Scheduler) gather(turn *schedule.Turn, own *job) *merged {
	b := own.Version.Batching
	m := &merged{copied: make(chan struct{})}
	add := func(j *job) {
		j.merged = m
		if !j.state.CompareAndSwap(waiting, reading) {
			return // it has left
		}
		if err := j.ctx.Err(); err != nil && j != own {
			j.finish(nil, 0, notStarted(err))
			return
		}
		m.jobs = append(m.jobs, j)
		m.rows += j.Rows
	}
	add(own)
	for _, work := range turn.Gather(b.MaxRows - m.rows) {
		add(work.(*job))
	}
	if b.MaxDelay > 0 {
		for _, j := range s.lobby.take(own.key, b.MaxRows-m.rows) {
			add(j)
		}
	}
	return m
}

// run runs all jobs as one and answers them, none of them if it fails.
func (m *merged) run() (took time.Duration, err error) {
	own := m.jobs[0]
	// The run is everybody's: it goes on until nobody waits for it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(own.ctx))
	defer cancel()
	m.cancel = cancel
	inputs := merge(m.jobs)
	begun := time.Now()
	for _, j := range m.jobs {
		j.begun, j.total = begun, m.rows
		j.state.Store(running)
	}
	close(m.copied)
	// The call of the first does not leave: it is here.
	stop := context.AfterFunc(own.ctx, m.leave)
	outputs, err := own.Version.Runner.Run(ctx, inputs, own.Outputs)
	took = time.Since(begun)
	stop()
	var parts []map[string]*model.Tensor
	if err == nil {
		parts, err = split(own.Version, outputs, m.jobs)
	}
	if err != nil {
		return took, err
	}
	for i, j := range m.jobs {
		switch {
		case !j.state.CompareAndSwap(running, reading): // it has left
		case j.ctx.Err() != nil:
			j.finish(nil, j.part(took), j.ctx.Err())
		default:
			j.finish(parts[i], j.part(took), nil)
		}
	}
	return took, nil
}

// singly runs each job by itself after the run of all has failed, and returns whose
// the time is. That which was lost is of those at fault, too, who are merged with no
// others for a while: who fails by itself or, if nobody does, has left before that was
// known.
func (s *Scheduler) singly(m *merged, lost time.Duration) []schedule.Share {
	shares := make([]schedule.Share, len(m.jobs))
	var failed, gone []int
	for i, j := range m.jobs {
		shares[i].Caller = j.Caller
		if !j.state.CompareAndSwap(running, reading) {
			gone = append(gone, i)
			continue
		}
		if err := j.ctx.Err(); err != nil {
			gone = append(gone, i)
			j.finish(nil, j.part(lost), err)
			continue
		}
		outputs, took, err := run(j.ctx, j.Request)
		shares[i].Weight = int64(took)
		switch {
		case err != nil && j.ctx.Err() != nil:
			gone = append(gone, i)
		case err != nil:
			failed = append(failed, i)
			took += j.part(lost)
		}
		j.finish(outputs, took, err)
	}
	if failed == nil {
		failed = gone
	}
	if len(failed) == len(m.jobs) {
		return shares // a run for which nobody waits any more, or that cannot be
	}
	wrong := int64(0) // rows of those at fault
	for _, i := range failed {
		wrong += m.jobs[i].Rows
	}
	for _, i := range failed {
		j := m.jobs[i]
		shares[i].Weight += int64(float64(lost) * float64(j.Rows) / float64(wrong))
		s.apart.add(j.Caller)
	}
	return shares
}

// merge puts the rows of the jobs one after the other, into memory of its own.
func merge(jobs []*job) map[string]*model.Tensor {
	inputs := make(map[string]*model.Tensor, len(jobs[0].Inputs))
	for name, first := range jobs[0].Inputs {
		t := &model.Tensor{DType: first.DType, Shape: slices.Clone(first.Shape)}
		t.Shape[0] = 0
		size := 0
		for _, j := range jobs {
			t.Shape[0] += j.Rows
			size += len(j.Inputs[name].Data)
		}
		if first.DType == model.String {
			for _, j := range jobs {
				t.Strings = append(t.Strings, j.Inputs[name].Strings...)
			}
		} else {
			t.Data = make([]byte, 0, size)
			for _, j := range jobs {
				t.Data = append(t.Data, j.Inputs[name].Data...)
			}
		}
		inputs[name] = t
	}
	return inputs
}

// split gives each job its rows of the outputs, copied. The error says that an output
// has not a row for each row, and then nobody gets any.
func split(v *model.Version, outputs map[string]*model.Tensor, jobs []*job) ([]map[string]*model.Tensor, error) {
	parts := make([]map[string]*model.Tensor, len(jobs))
	for i := range parts {
		parts[i] = make(map[string]*model.Tensor, len(outputs))
	}
	total := jobs[0].total
	for name, t := range outputs {
		if constant(v, name) {
			for i := range parts {
				parts[i][name] = rowsOf(t, 0, t.Rows())
			}
			continue
		}
		if err := t.Validate(); err != nil {
			return nil, fmt.Errorf("output %q: %w", name, err)
		}
		if len(t.Shape) == 0 || t.Rows() != total {
			return nil, fmt.Errorf("output %q has the shape %v for %d rows", name, t.Shape, total)
		}
		from := int64(0)
		for i, j := range jobs {
			parts[i][name] = rowsOf(t, from, j.Rows)
			from += j.Rows
		}
	}
	return parts, nil
}

func constant(v *model.Version, output string) bool {
	return slices.ContainsFunc(v.Signature.Outputs, func(o model.TensorSpec) bool { return o.Constant && o.Name == output })
}

// rowsOf is a copy of n rows.
func rowsOf(t *model.Tensor, from, n int64) *model.Tensor {
	out := &model.Tensor{DType: t.DType, Shape: slices.Clone(t.Shape)}
	out.Shape[0] = n
	row := model.Elements(t.Shape[1:])
	if t.DType == model.String {
		out.Strings = slices.Clone(t.Strings[from*row : (from+n)*row])
		return out
	}
	row *= int64(t.DType.Size())
	out.Data = slices.Clone(t.Data[from*row : (from+n)*row])
	return out
}
