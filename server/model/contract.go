package model

import (
	"errors"
	"fmt"
	"slices"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

const (
	defaultMaxRows        = 4096
	defaultMaxStringBytes = 4096
)

// Contract is what a request to a model must satisfy: the signature and, where
// there is one, the manifest. It is immutable.
type Contract struct {
	inputs  []inputContract
	outputs []string
	maxRows int64 // 0 without a row dimension
}

// inputContract is what one input must satisfy.
type inputContract struct {
	name    string
	dtype   DType
	shape   []int64 // with -1 where any length fits
	columns []string

	numbers        numberContract // of every type but BOOL and STRING
	allowedStrings map[string]bool
	maxStringBytes int
}

// NewContract compiles a signature and a manifest, which may be nil: then the
// signature holds, NaN and infinity are refused and so are more than 4096 rows.
// The error joins everything in which the two do not fit together.
//
// Numbers in the manifest are rounded to the type of the input, so that a
// maximum of 0.1 admits the FLOAT32 nearest to 0.1.
func NewContract(sig *Signature, m *configv1.ModelManifest) (*Contract, error) {
	c := &Contract{}
	var faults []error
	for _, spec := range sig.Inputs {
		demands := &configv1.InputContract{}
		if i := slices.IndexFunc(m.GetInputs(), func(in *configv1.InputContract) bool { return in.GetName() == spec.Name }); i >= 0 {
			demands = m.GetInputs()[i]
		}
		in, err := compileInput(spec, demands)
		if err != nil {
			faults = append(faults, err)
		}
		c.inputs = append(c.inputs, in)
	}
	for _, in := range m.GetInputs() {
		if !slices.ContainsFunc(sig.Inputs, func(s TensorSpec) bool { return s.Name == in.GetName() }) {
			faults = append(faults, fmt.Errorf("inputs: the model has no input %q", in.GetName()))
		}
	}

	for _, spec := range sig.Outputs {
		if len(m.GetOutputs()) == 0 || slices.Contains(m.GetOutputs(), spec.Name) {
			c.outputs = append(c.outputs, spec.Name)
		}
	}
	for _, name := range m.GetOutputs() {
		if !slices.Contains(c.outputs, name) {
			faults = append(faults, fmt.Errorf("outputs: the model has no output %q", name))
		}
	}

	if slices.ContainsFunc(c.inputs, inputContract.hasRows) {
		c.maxRows = defaultMaxRows
		if m.GetMaxRows() > 0 {
			c.maxRows = m.GetMaxRows()
		}
	} else if m.GetMaxRows() > 0 {
		faults = append(faults, errors.New("max_rows: the model has no row dimension"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return c, nil
}

// MaxRows is the most rows that a request may have; 0 if no input has a row
// dimension.
func (c *Contract) MaxRows() int64 { return c.maxRows }

// Outputs are the names of the outputs that may be returned, in the order of
// the signature. The caller must not change them.
func (c *Contract) Outputs() []string { return c.outputs }

// Columns are the names of an input's columns, nil if the manifest gives none.
// The caller must not change them.
func (c *Contract) Columns(input string) []string {
	for _, in := range c.inputs {
		if in.name == input {
			return in.columns
		}
	}
	return nil
}

// hasRows tells whether the first dimension may have any length.
func (in inputContract) hasRows() bool { return len(in.shape) > 0 && in.shape[0] == -1 }

// compileInput joins one input's specification and demands. Its error names
// the input.
func compileInput(spec TensorSpec, demands *configv1.InputContract) (inputContract, error) {
	in := inputContract{
		name:           spec.Name,
		dtype:          spec.DType,
		shape:          slices.Clone(spec.Shape),
		maxStringBytes: defaultMaxStringBytes,
	}
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("inputs[%q]"+format, append([]any{spec.Name}, args...)...))
	}

	if columns := demands.GetColumns(); len(columns) > 0 {
		last := len(spec.Shape) - 1
		switch {
		case last != 1:
			fault(".columns: the input has %d dimensions, not [rows, columns]", len(spec.Shape))
		case spec.Shape[last] != -1 && spec.Shape[last] != int64(len(columns)):
			fault(".columns: there are %d, the model has %d", len(columns), spec.Shape[last])
		default:
			in.shape[last] = int64(len(columns))
		}
		for _, c := range columns {
			in.columns = append(in.columns, c.GetName())
		}
	}

	if spec.DType == String {
		if demands.GetMaxStringBytes() > 0 {
			in.maxStringBytes = int(demands.GetMaxStringBytes())
		}
		if len(demands.GetAllowedStrings()) > 0 {
			in.allowedStrings = make(map[string]bool, len(demands.GetAllowedStrings()))
			for _, s := range demands.GetAllowedStrings() {
				in.allowedStrings[s] = true
			}
		}
	} else if demands.GetMaxStringBytes() > 0 || len(demands.GetAllowedStrings()) > 0 {
		fault(": max_string_bytes and allowed_strings are for STRING inputs, this is %s", spec.DType)
	}

	if !spec.DType.float() && (demands.GetAllowNan() || demands.GetAllowInfinity()) {
		fault(": allow_nan and allow_infinity are for floating-point inputs, this is %s", spec.DType)
	}
	if spec.DType == Bool || spec.DType == String {
		if hasNumbers(demands) {
			fault(": min, max and allowed_numbers are for numeric inputs, this is %s", spec.DType)
		}
	} else {
		in.numbers = compileNumbers(spec.DType, demands, fault)
	}
	return in, errors.Join(faults...)
}
