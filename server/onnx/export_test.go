package onnx

import "github.com/sallyport/sallyport/server/model"

// NarrowTo is narrowTo: no graph is known whose values need rounding there.
func NarrowTo(dtype model.DType, t *model.Tensor) { narrowTo(dtype, t) }

// Aligned is aligned: a machine that does not mind hides its absence.
func Aligned(data []byte, size int) []byte { return aligned(data, size) }

// Adapt is the graph that a model is run as, and what it is fed and asked for.
func Adapt(artifact []byte) (data []byte, feeds, fetches []string, err error) {
	p, data, err := adapt(artifact)
	return data, p.feeds(), p.fetches, err
}

// Bindings is how many bindings a model has that no run uses.
func Bindings(m model.Runner) int {
	bs := &m.(*runner).bindings
	bs.mu.Lock()
	defer bs.mu.Unlock()
	return len(bs.free)
}

// BoundMemory is the memory of those bindings.
func BoundMemory(m model.Runner) (memory [][]byte) {
	bs := &m.(*runner).bindings
	bs.mu.Lock()
	defer bs.mu.Unlock()
	for _, b := range bs.free {
		for _, v := range append(b.in, b.out...) {
			memory = append(memory, v.data)
		}
	}
	return memory
}
