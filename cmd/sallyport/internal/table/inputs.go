package table

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Inputs gathers rows as the inputs of a model.
type Inputs struct {
	specs  []*inferencev1.TensorSpec
	inputs []*input
	rows   int
}

// input is one input that is filled row by row.
type input struct {
	spec    *inferencev1.TensorSpec
	columns []string
	tensor  *inferencev1.Tensor
	// rest is the shape of one row, as the first row has it, once started.
	rest    []int64
	started bool
	// text is the bytes of the first counted strings.
	text, counted int
}

// NewInputs gathers rows for the inputs that specs describe.
func NewInputs(specs []*inferencev1.TensorSpec) *Inputs {
	in := &Inputs{specs: specs}
	for _, spec := range specs {
		in.inputs = append(in.inputs, &input{spec: spec, columns: tensor.Columns(spec), tensor: tensor.Empty(spec)})
	}
	return in
}

// Rows is how many rows there are.
func (in *Inputs) Rows() int { return in.rows }

// Tensors are the inputs by name. What is added later is not in them.
func (in *Inputs) Tensors() (map[string]*inferencev1.Tensor, error) {
	tensors := make(map[string]*inferencev1.Tensor, len(in.inputs))
	for _, i := range in.inputs {
		shape, err := tensor.FitShape(append([]int64{int64(in.rows)}, i.rest...), i.spec.GetShape())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", i.spec.GetName(), err)
		}
		i.tensor.Shape = shape
		tensors[i.spec.GetName()] = i.tensor
	}
	return tensors, nil
}

// errOtherShape is that a row has another shape than those before it, which the
// model may take, but not in one tensor.
var errOtherShape = errors.New("has another shape than the rows before it")

// row adds a row: fill appends to each input its part and returns the shape of
// that part, then check, if not nil, may still refuse the row. If it fails nothing
// is added.
func (in *Inputs) row(fill func(i int, t *inferencev1.Tensor) (rest []int64, err error), check func() error) error {
	for i, part := range in.inputs {
		raw, texts := len(part.tensor.Raw), len(part.tensor.StringValues)
		rest, err := fill(i, part.tensor)
		if err == nil {
			err = part.fits(rest)
		}
		if err != nil {
			part.tensor.Raw, part.tensor.StringValues = part.tensor.Raw[:raw], part.tensor.StringValues[:texts]
			for _, before := range in.inputs[:i] {
				before.drop(in.rows)
			}
			return err
		}
	}
	if check != nil {
		if err := check(); err != nil {
			for _, part := range in.inputs {
				part.drop(in.rows)
			}
			return err
		}
	}
	in.rows++
	for _, part := range in.inputs {
		part.started = true
	}
	return nil
}

// fits takes the shape of a row's part, or says what is wrong with it.
func (in *input) fits(rest []int64) error {
	if in.started {
		if !slices.Equal(rest, in.rest) {
			return &shapeError{in.spec.GetName(), fmt.Sprintf("has shape %s, the rows before it %s", tensor.FormatShape(rest), tensor.FormatShape(in.rest))}
		}
		return nil
	}
	first := int64(-1)
	if want := in.spec.GetShape(); len(want) > 0 {
		first = want[0] // how many rows there are is not known yet
	}
	if _, err := tensor.FitShape(append([]int64{first}, rest...), in.spec.GetShape()); err != nil {
		return fmt.Errorf("%s: %w", in.spec.GetName(), err)
	}
	in.rest = slices.Clone(rest)
	return nil
}

// drop leaves only the first rows.
func (in *input) drop(rows int) {
	per := 1
	for _, d := range in.rest {
		per *= int(d)
	}
	if w := tensor.Width(in.spec.GetDataType()); w > 0 {
		in.tensor.Raw = in.tensor.Raw[:rows*per*w]
		return
	}
	in.tensor.StringValues = in.tensor.StringValues[:rows*per]
}

// shapeError is errOtherShape with the input and the shapes.
type shapeError struct{ input, text string }

func (e *shapeError) Error() string { return e.input + ": " + e.text }
func (e *shapeError) Unwrap() error { return errOtherShape }

// bytes is about what the rows take in a message. It is called between rows.
func (in *Inputs) bytes() int {
	n := 0
	for _, i := range in.inputs {
		n += len(i.tensor.Raw)
		for _, s := range i.tensor.StringValues[i.counted:] {
			i.text += len(s) + 4
		}
		i.counted = len(i.tensor.StringValues)
		n += i.text
	}
	return n
}

// removeLast removes the last row.
func (in *Inputs) removeLast() {
	in.rows--
	for _, i := range in.inputs {
		i.drop(in.rows)
		i.counted, i.text = 0, 0 // count again
	}
}
