// Package batch sends a table to a model over a stream and writes its answers to
// another table, of which each row is answered exactly once however often the run
// is stopped and started.
package batch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	sallyport "github.com/sallyport/sallyport/clients/go"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

const (
	// maxBatchBytes keeps what one message carries below the 4 MiB that gRPC servers
	// take unless told otherwise.
	maxBatchBytes = 3 << 20
	// maxBatchRows is the most rows of a batch unless told otherwise: beyond it a
	// batch costs memory and gains nothing.
	maxBatchRows = 4096
)

// Pipe is the name of a file that stands for standard input or output. What is
// piped has no checkpoint.
const Pipe = "-"

// Config says what to run on what.
type Config struct {
	// Models and Stream are the server's.
	Models inferencev1.ModelServiceClient
	Stream func(context.Context, sallyport.StreamConfig) (*sallyport.Stream, error)

	// Model is the model's name. Version is 0 for its default when the run begins,
	// which it then keeps.
	Model   string
	Version int64
	// Outputs to ask for; empty for all that have a row for each of the inputs.
	Outputs []string

	// Input and Output are files, or Pipe; their formats must be set.
	Input, Output             string
	InputFormat, OutputFormat table.Format
	Stdin                     *os.File
	Stdout                    io.Writer
	// Keep, Ignore, RowColumn and Prefix are as in table.Options and table.Schema.
	Keep, Ignore      []string
	RowColumn, Prefix string

	// Errors is the file for rows without an answer: JSON lines, or CSV if its name
	// ends so.
	Errors string
	// MaxErrors is how many there may be; negative for any number.
	MaxErrors int64
	// BatchRows is the most rows in a batch; 0 for as many as the server takes, up
	// to 4096.
	BatchRows int
	// Every is how often the run's state is made durable.
	Every time.Duration
	// Patience is how long to wait for a server that cannot be reached.
	Patience time.Duration
	// WaitForBudget waits however long a quota takes, else the run stops where that
	// is more than a few minutes.
	WaitForBudget bool
	// Overwrite begins anew whatever is there.
	Overwrite bool
	// Progress, if not nil, is told about once a second how it goes, from one
	// goroutine.
	Progress func(Progress)
}

// Progress is how far a run is.
type Progress struct {
	// Answered and Refused are rows so far, earlier runs included. Before is how
	// many of them were there when this run began.
	Answered, Refused, Before int64
	// Done is the share of the input that is behind, 0 to 1; negative if nobody
	// knows.
	Done float64
	// Slowed is why the run waits, if it does: a reason of the server's.
	Slowed string
}

// Summary is what came of a run.
type Summary struct {
	Answered, Refused, Before int64
	Model                     string
	Version                   int64
	Digest                    string
}

// UnfinishedError is that the run stopped and goes on where it did when it is
// started again.
type UnfinishedError struct {
	Cause error
	// Again is when that makes sense; zero for at once.
	Again time.Time
}

func (e *UnfinishedError) Error() string {
	again := "run the same command again to go on"
	if !e.Again.IsZero() {
		again += " after " + e.Again.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("stopped before the end (%v); %s", e.Cause, again)
}

func (e *UnfinishedError) Unwrap() error { return e.Cause }

// Run runs the model on every row of the input. It blocks until that is done, ctx
// ends or it cannot go on; then what was answered is kept, if it can be.
func Run(ctx context.Context, cfg Config) (*Summary, error) {
	r := &run{Config: cfg}
	defer r.release()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	err := r.flow(ctx)
	if err == nil {
		err = r.finish()
	}
	return &Summary{
		Answered: r.state.Answered, Refused: r.state.Refused, Before: r.before,
		Model: r.Model, Version: r.state.Version, Digest: r.state.Digest,
	}, err
}

// run is a run under way.
type run struct {
	Config
	place  *place // nil if the output is piped
	state  state
	before int64 // rows that were done when it began

	input   *os.File
	reader  *table.Reader
	outputs []string // to ask for; empty for all
	writer  table.Writer
	answers *growing
	faults  *faults
	share   atomicShare
	stream  *sallyport.Stream // nil while there is none
}

// atomicShare is a share that another goroutine reads.
type atomicShare struct{ bits atomic.Uint64 }

func (s *atomicShare) Store(v float64) { s.bits.Store(math.Float64bits(v)) }
func (s *atomicShare) Load() float64   { return math.Float64frombits(s.bits.Load()) }

// prepare opens everything, and goes to where an earlier run stopped.
func (r *run) prepare(ctx context.Context) (err error) {
	if err := r.apart(); err != nil {
		return err
	}
	if r.Output != Pipe {
		if r.place, err = takePlace(r.Output, r.Overwrite); err != nil {
			return err
		}
	}
	r.input = r.Stdin
	if r.Input != Pipe {
		if r.input, err = os.Open(r.Input); err != nil {
			return err
		}
	}
	now := r.settings()
	if r.Input != Pipe {
		if now.Input, err = identify(r.input); err != nil {
			return err
		}
	}
	begun := false
	if r.place != nil {
		if begun, err = r.place.load(&r.state); err != nil {
			return err
		}
	}
	if begun {
		if err := now.same(r.state.Settings); err != nil {
			return fmt.Errorf("%s holds an unfinished run that cannot go on: %w; --overwrite begins anew", r.place.dir, err)
		}
		r.before = r.state.Answered + r.state.Refused
		if err := r.overMaxErrors(); err != nil {
			return err
		}
	}
	r.state.Settings = now
	m, err := r.describe(ctx, begun)
	if err != nil {
		return err
	}
	return r.open(ctx, m, begun)
}

// describe asks for the model's signature.
func (r *run) describe(ctx context.Context, begun bool) (*inferencev1.Model, error) {
	version := r.Version
	if begun {
		version = r.state.Version
	}
	var answer *inferencev1.GetModelResponse
	err := r.patiently(ctx, func() (err error) {
		answer, err = r.Models.GetModel(ctx, &inferencev1.GetModelRequest{Model: r.Model, Version: version})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("model %q: %w", r.Model, err)
	}
	m := answer.GetModel()
	if begun && m.GetDigest() != r.state.Digest {
		return nil, fmt.Errorf("version %d of the model has changed since the run began, from %s to %s: its answers would not go together; --overwrite begins anew",
			version, r.state.Digest, m.GetDigest())
	}
	r.state.Version, r.state.Digest = m.GetVersion(), m.GetDigest()
	if len(m.GetInputs()) == 0 || slices.ContainsFunc(m.GetInputs(), func(s *inferencev1.TensorSpec) bool { return !byRows(s) }) {
		return nil, errors.New("the model does not work by rows, so its input cannot be cut into batches; use sallyport predict")
	}
	return m, nil
}

// byRows tells whether a tensor has as many rows as there are.
func byRows(s *inferencev1.TensorSpec) bool {
	return len(s.GetShape()) > 0 && s.GetShape()[0] == -1
}

// open opens the table, the stream and what is written.
func (r *run) open(ctx context.Context, m *inferencev1.Model, begun bool) (err error) {
	outputs, err := r.chooseOutputs(m.GetOutputs())
	if err != nil {
		return err
	}
	r.reader, err = table.Open(r.input, r.InputFormat, table.Options{
		Specs: m.GetInputs(), Keep: r.Keep, Ignore: r.Ignore, JSON: r.OutputFormat == table.FormatJSONL, Rows: 1, Bytes: maxBatchBytes,
	})
	if errors.Is(err, table.ErrUnknownColumns) {
		return fmt.Errorf("%s: %w or pass them on with --keep", r.Input, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.Input, err)
	}
	schema, err := table.NewSchema(r.RowColumn, r.reader.Kept(), outputs, r.Prefix)
	if err != nil {
		return err
	}
	if err := r.reader.Seek(r.state.Position); err != nil {
		return fmt.Errorf("%s: go to row %d: %w", r.Input, r.state.Position.Row, err)
	}
	if err := r.patiently(ctx, func() error { return r.openStream(ctx) }); err != nil {
		return err
	}
	rows := r.BatchRows
	if rows == 0 {
		rows = maxBatchRows
	}
	if most := r.stream.Opened().GetMaxRows(); most > 0 {
		rows = min(rows, int(most))
	}
	r.reader.Limit(rows)

	if r.faults, err = openFaults(r.Errors, r.state.Errors, begun || r.Overwrite); err != nil {
		return err
	}
	if r.place == nil {
		r.answers = &growing{w: r.Stdout}
	} else if r.answers, err = grow(r.place.answers(), r.state.Output); err != nil {
		return err
	}
	r.writer, err = table.NewWriter(r.answers, table.Growing(r.OutputFormat), schema, r.state.Output > 0)
	if err != nil {
		return err
	}
	// Before anything is written that a crash could leave behind.
	return r.save()
}

// chooseOutputs are the outputs that the table gets.
func (r *run) chooseOutputs(all []*inferencev1.TensorSpec) ([]*inferencev1.TensorSpec, error) {
	var chosen []*inferencev1.TensorSpec
	var names, has []string
	for _, s := range all {
		has = append(has, s.GetName())
		wanted := slices.Contains(r.Outputs, s.GetName())
		if wanted && !byRows(s) {
			return nil, fmt.Errorf("output %q has no row for each of the inputs", s.GetName())
		}
		if byRows(s) && (wanted || len(r.Outputs) == 0) {
			chosen = append(chosen, s)
			names = append(names, s.GetName())
		}
	}
	for _, name := range r.Outputs {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("the model has no output %q; it has %s", name, strings.Join(has, ", "))
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("no output of the model has a row for each of the inputs")
	}
	if len(chosen) < len(all) {
		r.outputs = names
	}
	return chosen, nil
}

// save makes what was answered durable, and then says so in the checkpoint.
func (r *run) save() error {
	if r.place == nil {
		_, err := r.faults.sync()
		return errors.Join(r.answers.flush(), err)
	}
	var err error
	if r.state.Output, err = r.answers.sync(); err != nil {
		return err
	}
	if r.state.Errors, err = r.faults.sync(); err != nil {
		return err
	}
	if r.Input == Pipe {
		return nil // nobody can go on in the middle of it
	}
	return r.place.save(&r.state)
}

// finish gives the output its format and its name.
func (r *run) finish() error {
	if _, err := r.answers.Write(table.End(table.Growing(r.OutputFormat))); err != nil {
		return err
	}
	if r.place == nil {
		return errors.Join(r.answers.flush(), r.faults.close())
	}
	if _, err := r.answers.sync(); err != nil {
		return err
	}
	if err := r.faults.close(); err != nil {
		return err
	}
	return r.place.finish(r.OutputFormat)
}

// release closes what is open.
func (r *run) release() {
	if r.stream != nil {
		_ = r.stream.Close()
	}
	if r.reader != nil {
		_ = r.reader.Close()
	}
	if r.input != nil && r.input != r.Stdin {
		_ = r.input.Close()
	}
	if r.answers != nil {
		r.answers.abandon()
	}
	if r.faults != nil {
		r.faults.abandon()
	}
	if r.place != nil {
		r.place.release()
	}
}
