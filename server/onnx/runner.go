package onnx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/sallyport/sallyport/server/model"
)

// runner is a loaded model.
type runner struct {
	plan
	runtime  *Runtime
	session  *ort.DynamicAdvancedSession
	bindings bindings
	close    sync.Once
	// long tells that the last run that was not prompt by its binding was not so
	// at all.
	long atomic.Bool
}

var _ model.Runner = (*runner)(nil)

func (r *runner) Signature() *model.Signature { return &r.signature }

func (r *runner) Close() error {
	var err error
	r.close.Do(func() {
		r.bindings.close()
		err = r.session.Destroy()
		r.runtime.loaded.Add(-1)
	})
	return err
}

// Run is as model.Runner says. A run that is to end does so at its next node:
// ONNX Runtime does not look up within one. Its errors are model.ErrInvalidInput where
// the inputs are at fault.
func (r *runner) Run(ctx context.Context, inputs map[string]*model.Tensor, names []string) (_ map[string]*model.Tensor, err error) {
	started := false
	defer func() {
		if err != nil && !started {
			err = fmt.Errorf("%w: %w", model.ErrNotStarted, err)
		}
	}()
	if err := r.check(inputs, names); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	for _, spec := range r.signature.Inputs {
		if err := checkElements(inputs[spec.Name]); err != nil {
			return nil, fmt.Errorf("input %q: %w", spec.Name, err)
		}
	}
	b, again := r.bindings.take(&r.signature, inputs)
	if b == nil {
		return r.runAnew(ctx, inputs, names, again, &started)
	}
	started = true
	failed := r.runBound(ctx, b, inputs)
	if failed != nil && ctx.Err() != nil {
		b.wipe()
		r.bindings.put(b)
		return nil, ctx.Err()
	}
	if failed == nil {
		outputs, err := r.answer(names, b.tensor)
		b.wipe()
		r.bindings.put(b)
		return outputs, err
	}
	// The inputs are at fault, or the shapes of the outputs follow from more than
	// those of the inputs: then there must be no binding.
	outputs, err := r.runAnew(ctx, inputs, names, false, &started)
	if err == nil {
		r.bindings.close()
	}
	b.wipe()
	r.bindings.put(b)
	return outputs, err
}

// runAnew is a run with values of its own. With keep it leaves a binding for the
// next one, if it can.
func (r *runner) runAnew(ctx context.Context, inputs map[string]*model.Tensor, names []string, keep bool, started *bool) (map[string]*model.Tensor, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	feeds := make([]ort.Value, 0, len(r.signature.Inputs))
	defer func() { destroy(feeds) }()
	for _, spec := range r.signature.Inputs {
		v, err := newValue(inputs[spec.Name], &pin)
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", spec.Name, err)
		}
		feeds = append(feeds, v)
	}
	*started = true
	fetched := make([]ort.Value, len(r.fetches))
	defer func() { destroy(fetched) }()
	start := time.Now()
	if err := r.run(ctx, feeds, fetched); err != nil {
		return nil, err
	}
	if keep && time.Since(start) < promptly {
		switch b, err := r.bind(inputs, fetched); {
		case err != nil:
			r.bindings.close()
		case b != nil:
			b.wipe()
			r.bindings.put(b)
		}
	}
	return r.answer(names, func(i int) (*model.Tensor, error) { return newTensor(fetched[i]) })
}

// answer makes the outputs named of what was fetched.
func (r *runner) answer(names []string, fetched func(int) (*model.Tensor, error)) (map[string]*model.Tensor, error) {
	outputs := make(map[string]*model.Tensor, len(r.outputs))
	for i, spec := range r.signature.Outputs {
		if len(names) > 0 && !slices.Contains(names, spec.Name) {
			continue
		}
		t, err := r.outputs[i].tensor(spec.DType, fetched)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", spec.Name, err)
		}
		outputs[spec.Name] = t
	}
	return outputs, nil
}

// run runs the session until it is done or ctx ends.
func (r *runner) run(ctx context.Context, feeds, fetched []ort.Value) error {
	// Not reused, so that the end of one run cannot be the end of another.
	options, err := ort.NewRunOptions()
	if err != nil {
		return err
	}
	defer func() { _ = options.Destroy() }()
	terminated := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { terminated <- options.Terminate() })
	back := func() {}
	if r.long.Load() {
		back = stepAside()
	}
	start := time.Now()
	err = r.session.RunWithOptions(feeds, fetched, options)
	r.long.Store(time.Since(start) > promptly)
	back()
	if !stop() {
		err = errors.Join(err, <-terminated)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return runError(err)
}

// check holds what a run's memory safety rests on, whatever the caller checked.
func (r *runner) check(inputs map[string]*model.Tensor, names []string) error {
	for _, spec := range r.signature.Inputs {
		switch t := inputs[spec.Name]; {
		case t == nil:
			return invalid("input %q is missing", spec.Name)
		case t.DType != spec.DType:
			return invalid("input %q is %s, not %s", spec.Name, t.DType, spec.DType)
		case len(t.Shape) != len(spec.Shape):
			return invalid("input %q has %d dimensions, not %d", spec.Name, len(t.Shape), len(spec.Shape))
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(r.signature.Outputs, func(o model.TensorSpec) bool { return o.Name == name }) {
			return invalid("there is no output %q", name)
		}
	}
	return nil
}

// tensor makes the output of what was fetched.
func (o *output) tensor(dtype model.DType, fetched func(int) (*model.Tensor, error)) (*model.Tensor, error) {
	if o.constant != nil {
		return &model.Tensor{
			DType:   o.constant.DType,
			Shape:   slices.Clone(o.constant.Shape),
			Data:    slices.Clone(o.constant.Data),
			Strings: slices.Clone(o.constant.Strings),
		}, nil
	}
	t, err := fetched(o.values)
	if err != nil {
		return nil, err
	}
	if o.shape >= 0 {
		shape, err := fetched(o.shape)
		if err != nil {
			return nil, err
		}
		if shape.DType != model.Int64 {
			return nil, fmt.Errorf("its shape is %s", shape.DType)
		}
		t.Shape = make([]int64, len(shape.Data)/8)
		for i := range t.Shape {
			t.Shape[i] = int64(binary.LittleEndian.Uint64(shape.Data[8*i:])) //nolint:gosec // the same bits
		}
	}
	if dtype == model.Float16 || dtype == model.BFloat16 {
		narrowTo(dtype, t)
	}
	if t.DType != dtype {
		return nil, fmt.Errorf("it is %s, not %s", t.DType, dtype)
	}
	return t, t.Validate()
}

func destroy(values []ort.Value) {
	for _, v := range values {
		if v != nil {
			_ = v.Destroy() // never fails: it frees, and has nothing to report
		}
	}
}
