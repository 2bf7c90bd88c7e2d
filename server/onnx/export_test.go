package onnx

import "github.com/sallyport/sallyport/server/model"

// Running is how many runs go on, Waiting how many wait for their turn.
func (r *Runtime) Running() int { return len(r.turns) }

func (r *Runtime) Waiting() int { return int(r.waiting.Load()) }

// NarrowTo is narrowTo: no graph is known whose values need rounding there.
func NarrowTo(dtype model.DType, t *model.Tensor) { narrowTo(dtype, t) }

// Aligned is aligned: a machine that does not mind hides its absence.
func Aligned(data []byte, size int) []byte { return aligned(data, size) }
