package model

import (
	"errors"
	"fmt"
	"time"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// Batching says how requests to a version are merged.
type Batching struct {
	// MaxRows is the most rows in a run of merged requests.
	MaxRows int64
	// MaxDelay is how long a request waits for others.
	MaxDelay time.Duration
}

// newBatching is nil if the manifest has none. The error names every input and
// output by which rows could not be told apart.
func newBatching(sig *Signature, c *Contract, b *configv1.Batching) (*Batching, error) {
	if b == nil {
		return nil, nil //nolint:nilnil // no batching is not a fault
	}
	var faults []error
	rowless := func(kind string, specs []TensorSpec) {
		for _, spec := range specs {
			if !spec.Constant && (len(spec.Shape) == 0 || spec.Shape[0] != -1) {
				faults = append(faults, fmt.Errorf("batching: %s %s has no row dimension, its shape is %s", kind, quote(spec.Name), shape(spec.Shape)))
			}
		}
	}
	rowless("input", sig.Inputs)
	rowless("output", sig.Outputs)
	if most := c.MaxRows(); most > 0 && b.GetMaxRows() > most {
		faults = append(faults, fmt.Errorf("batching.max_rows: %d is more than max_rows, %d", b.GetMaxRows(), most))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return &Batching{MaxRows: b.GetMaxRows(), MaxDelay: b.GetMaxDelay().AsDuration()}, nil
}
