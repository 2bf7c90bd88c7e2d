package model

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// Info describes one version of a model. It is immutable and shared.
type Info struct {
	Name   string
	Number int64
	// Digest is "sha256:" and the hexadecimal SHA-256 of the artefact.
	Digest string
	// Signature has the outputs that the manifest lets out.
	Signature *Signature
	Contract  *Contract
	// Manifest is nil if the model has none.
	Manifest *configv1.ModelManifest
	// Batching is nil if requests are not to be merged.
	Batching *Batching
}

// Version is one version of a model, on loan from a Repository.
type Version struct {
	Info
	// Runner runs the version until Release. It never returns an output that
	// the manifest keeps back.
	Runner Runner

	artifact *artifact
}

// Release ends the loan. It must be called once for each Acquire, and the
// Version not be used after it. It does not block.
func (v *Version) Release() { v.artifact.release() }

// artifact is a loaded artefact and counts who uses it: the repository for as
// long as it is served, and every loan.
type artifact struct {
	digest string
	runner Runner
	uses   atomic.Int64

	name string // for the log
	log  *slog.Logger
	live *sync.WaitGroup // done when the runner is closed
}

// acquire reports false if the artefact is closed or about to be.
func (a *artifact) acquire() bool {
	for {
		n := a.uses.Load()
		if n == 0 {
			return false
		}
		if a.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (a *artifact) release() {
	switch n := a.uses.Add(-1); {
	case n < 0:
		panic("model: Release without Acquire")
	case n == 0:
		// Not here: freeing a large model takes time, and this is a caller's.
		go func() {
			defer a.live.Done()
			if err := a.runner.Close(); err != nil {
				a.log.Error("close model", slog.String("model", a.name), slog.String("digest", a.digest), slog.Any("error", err))
			}
		}()
	}
}

// newVersion joins an artefact and a manifest. The error says in what they do
// not fit.
func newVersion(name string, number int64, a *artifact, m *configv1.ModelManifest) (*Version, error) {
	sig := a.runner.Signature()
	contract, err := NewContract(sig, m)
	if err != nil {
		return nil, err
	}
	v := &Version{
		Info:     Info{Name: name, Number: number, Digest: a.digest, Signature: sig, Contract: contract, Manifest: m},
		Runner:   a.runner,
		artifact: a,
	}
	if len(contract.Outputs()) < len(sig.Outputs) {
		r := &restricted{Runner: a.runner, outputs: contract.Outputs()}
		r.signature = Signature{Inputs: sig.Inputs, Outputs: slices.DeleteFunc(slices.Clone(sig.Outputs), func(o TensorSpec) bool {
			return !slices.Contains(r.outputs, o.Name)
		})}
		v.Runner, v.Signature = r, &r.signature
	}
	if v.Batching, err = newBatching(v.Signature, contract, m.GetBatching()); err != nil {
		return nil, err
	}
	return v, nil
}

// restricted is a Runner that keeps some outputs back.
type restricted struct {
	Runner
	signature Signature
	outputs   []string
}

func (r *restricted) Signature() *Signature { return &r.signature }

func (r *restricted) Run(ctx context.Context, inputs map[string]*Tensor, outputs []string) (map[string]*Tensor, error) {
	if len(outputs) == 0 {
		outputs = r.outputs
	}
	for _, name := range outputs {
		if !slices.Contains(r.outputs, name) {
			return nil, fmt.Errorf("output %s is kept back", quote(name))
		}
	}
	return r.Runner.Run(ctx, inputs, outputs)
}
