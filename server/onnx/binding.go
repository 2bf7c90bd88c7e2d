package onnx

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
)

// A run of one row takes ONNX Runtime five microseconds, and making its values and
// reading them takes thirteen. So the values are kept for the next run whose inputs
// have the same shapes.
const (
	// maxBoundBytes is how much a run takes in, or gives out, at most that is
	// copied into values that are there. Beyond it copying costs more than new values.
	maxBoundBytes = 64 << 10
	// maxBindings is how many bindings a model keeps that no run uses.
	maxBindings = 8
	// promptly is how long a run takes at most that is bound. It is not told when its
	// context ends: it is over by then, as the one before was.
	promptly = time.Millisecond
)

// binding is what one run needs, made for inputs of certain shapes. One run at a
// time uses it.
type binding struct {
	shapes   []int64 // of all inputs, one after the other: their ranks are the model's
	in, out  []bound
	feeds    []ort.Value
	fetched  []ort.Value
	pin      runtime.Pinner // of the memory of in and out
	duration time.Duration  // of the last run
}

// bound is one value of a binding and its memory.
type bound struct {
	dtype model.DType
	shape []int64
	data  []byte
}

// bindings are those of a model that no run uses.
type bindings struct {
	mu   sync.Mutex // guards what follows
	free []*binding // the one used last is last
	// last has the shapes of the last run that found none. Those that come twice in
	// a row get a binding.
	last []int64
	// unfit tells that there can be none: not from the shapes of the inputs alone
	// follows what has to be written where.
	unfit bool
}

// fitting tells whether runs of the model may be bound: what goes in and out is
// numbers, and without branches and loops the same nodes write the same outputs
// each time, in about the same time.
func (p *plan) fitting(g *graph.Graph) bool {
	for _, in := range p.signature.Inputs {
		if in.DType == model.String || len(in.Shape) == 0 {
			return false
		}
	}
	for i, out := range p.signature.Outputs {
		if out.DType == model.String && p.outputs[i].constant == nil {
			return false
		}
	}
	// A value that is fetched twice would be written once.
	sorted := slices.Sorted(slices.Values(p.fetches))
	if len(slices.Compact(sorted)) < len(p.fetches) {
		return false
	}
	return !slices.ContainsFunc(g.Nodes, func(n graph.Node) bool {
		switch n.Op {
		case "If", "Loop", "Scan", "SequenceMap":
			return true
		}
		return n.Domain != "" && n.Domain != "ai.onnx" && n.Domain != "ai.onnx.ml" // perhaps a function that has one
	})
}

// take takes out a binding for the inputs. If there is none, again tells that
// their shapes have come twice: it is time to make one.
func (bs *bindings) take(sig *model.Signature, inputs map[string]*model.Tensor) (b *binding, again bool) {
	size := 0
	for _, spec := range sig.Inputs {
		size += len(inputs[spec.Name].Data)
	}
	if size > maxBoundBytes {
		return nil, false
	}
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if bs.unfit {
		return nil, false
	}
	for i := len(bs.free) - 1; i >= 0; i-- {
		if b := bs.free[i]; sameShapes(b.shapes, sig, inputs) {
			bs.free = slices.Delete(bs.free, i, i+1)
			return b, false
		}
	}
	if sameShapes(bs.last, sig, inputs) {
		return nil, true
	}
	bs.last = shapesOf(bs.last[:0], sig, inputs)
	return nil, false
}

// put gives a binding back that no run uses.
func (bs *bindings) put(b *binding) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if bs.unfit {
		b.destroy()
		return
	}
	if len(bs.free) == maxBindings {
		bs.free[0].destroy()
		bs.free = slices.Delete(bs.free, 0, 1)
	}
	bs.free = append(bs.free, b)
}

// close destroys the bindings that no run uses; those given back later, too.
func (bs *bindings) close() {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.unfit = true
	for _, b := range bs.free {
		b.destroy()
	}
	bs.free = nil
}

func shapesOf(to []int64, sig *model.Signature, inputs map[string]*model.Tensor) []int64 {
	for _, spec := range sig.Inputs {
		to = append(to, inputs[spec.Name].Shape...)
	}
	return to
}

func sameShapes(shapes []int64, sig *model.Signature, inputs map[string]*model.Tensor) bool {
	for _, spec := range sig.Inputs {
		shape := inputs[spec.Name].Shape
		if len(shapes) < len(shape) || !slices.Equal(shapes[:len(shape)], shape) {
			return false
		}
		shapes = shapes[len(shape):]
	}
	return len(shapes) == 0
}

// bind makes a binding after a run with these inputs that fetched these values,
// and proves it: the same run into it must write the same, all of it. Without
// proof there is no binding, now or later.
func (r *runner) bind(inputs map[string]*model.Tensor, fetched []ort.Value) (*binding, error) {
	b := &binding{shapes: shapesOf(nil, &r.signature, inputs)}
	size := 0
	want := make([]*model.Tensor, len(fetched))
	for i, v := range fetched {
		t, err := newTensor(v)
		if err != nil {
			return nil, err
		}
		want[i] = t
		size += len(t.Data)
		if len(t.Data) == 0 || len(t.Shape) == 0 {
			return nil, nil // this shape only
		}
	}
	if size > maxBoundBytes {
		return nil, nil
	}
	err := func() error {
		for _, spec := range r.signature.Inputs {
			t := inputs[spec.Name]
			if err := b.add(&b.in, &b.feeds, t.DType, t.Shape); err != nil {
				return err
			}
		}
		for _, t := range want {
			if err := b.add(&b.out, &b.fetched, t.DType, t.Shape); err != nil {
				return err
			}
		}
		b.fill(&r.signature, inputs)
		for i, t := range want {
			for j, v := range t.Data {
				b.out[i].data[j] = ^v // what is not written shows
			}
		}
		start := time.Now()
		if err := r.session.Run(b.feeds, b.fetched); err != nil {
			return err
		}
		b.duration = time.Since(start)
		for i, t := range want {
			if !bytes.Equal(b.out[i].data, t.Data) {
				return errors.New("the same run wrote something else")
			}
		}
		return nil
	}()
	if err != nil {
		b.destroy()
		return nil, err
	}
	return b, nil
}

// add adds a value with memory of its own.
func (b *binding) add(to *[]bound, values *[]ort.Value, dtype model.DType, shape []int64) error {
	n := int(model.Elements(shape)) * dtype.Size()
	words := make([]uint64, (n+7)/8)                                          // aligned for every type
	data := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), n) //nolint:gosec // words has at least as many bytes
	b.pin.Pin(&words[0])
	v, err := ort.NewCustomDataTensor(shape, data, elems[dtype])
	if err != nil {
		return err
	}
	*to = append(*to, bound{dtype, slices.Clone(shape), data})
	*values = append(*values, v)
	return nil
}

// fill copies the inputs in.
func (b *binding) fill(sig *model.Signature, inputs map[string]*model.Tensor) {
	for i, spec := range sig.Inputs {
		copy(b.in[i].data, inputs[spec.Name].Data)
	}
}

// wipe leaves nothing of a run for the next one, which may be another caller's.
func (b *binding) wipe() {
	for _, v := range b.in {
		clear(v.data)
	}
	for _, v := range b.out {
		clear(v.data)
	}
}

// tensor is a copy of what was fetched.
func (b *binding) tensor(i int) (*model.Tensor, error) {
	v := &b.out[i]
	return &model.Tensor{DType: v.dtype, Shape: slices.Clone(v.shape), Data: slices.Clone(v.data)}, nil
}

func (b *binding) destroy() {
	destroy(b.feeds)
	destroy(b.fetched)
	b.pin.Unpin()
}

// runBound runs the session with the binding's values.
func (r *runner) runBound(ctx context.Context, b *binding, inputs map[string]*model.Tensor) error {
	b.fill(&r.signature, inputs)
	start := time.Now()
	var err error
	if b.duration < promptly {
		err = r.session.Run(b.feeds, b.fetched)
	} else {
		err = r.run(ctx, b.feeds, b.fetched)
	}
	b.duration = time.Since(start)
	return err
}
