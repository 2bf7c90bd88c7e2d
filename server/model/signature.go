package model

import (
	"context"
	"errors"
)

// TensorSpec is the name, type and shape of one input or output.
type TensorSpec struct {
	Name  string
	DType DType
	// Shape has -1 where any length fits.
	Shape []int64
	// Constant says that an output is the same for every run.
	Constant bool
}

// Signature is what a model takes and returns, as its graph says it.
type Signature struct {
	Inputs  []TensorSpec
	Outputs []TensorSpec
}

// Runner runs one loaded artefact. It is safe for concurrent use.
type Runner interface {
	// Signature is the graph's signature; the caller must not change it.
	Signature() *Signature
	// Run runs the model once and blocks until it is done. Inputs have been checked
	// against the signature; they are read, not kept. The outputs named are returned,
	// all if none is named; the caller owns them. When ctx ends the run is terminated
	// and ctx's error returned. The error wraps ErrNotStarted if the model did not
	// begin to run; ErrInvalidInput if the inputs do not fit.
	Run(ctx context.Context, inputs map[string]*Tensor, outputs []string) (map[string]*Tensor, error)
	// Close frees the artefact. No Run may be going on or begin afterwards.
	Close() error
}

// Loader turns the bytes of an artefact into a Runner.
type Loader interface {
	// Load blocks while the graph is optimised. It does not keep artifact.
	Load(artifact []byte) (Runner, error)
}

// ErrNotStarted says that a model did not begin to run: nothing was spent.
var ErrNotStarted = errors.New("the run did not start")

// ErrNotFound says that a model or version is not loaded.
var ErrNotFound = errors.New("model not found")

// ErrNotReady says that a model exists but cannot be run now.
var ErrNotReady = errors.New("model not ready")

// ErrInvalidInput says that inputs passed the contract, but the graph cannot go
// on with them: an index out of range, lengths that do not go together. Its text
// can hold values of the inputs.
var ErrInvalidInput = errors.New("invalid input")
