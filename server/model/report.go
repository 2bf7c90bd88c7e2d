package model

import (
	"strconv"
	"strings"
)

// report gathers violations. It allocates only when there are some.
type report struct{ err *ContractError }

// room tells whether one more violation would be described; if not, it is
// counted.
func (r *report) room() bool {
	if r.err == nil {
		r.err = &ContractError{}
	}
	if len(r.err.Violations) < maxViolations {
		return true
	}
	r.err.More++
	return false
}

func (r *report) add(field, description string) {
	if r.room() {
		r.err.Violations = append(r.err.Violations, Violation{Field: field, Description: description})
	}
}

func (r *report) input(name, description string) {
	r.add("inputs["+strconv.Quote(name)+"]", description)
}

// element reports element i of a tensor.
func (r *report) element(in *inputContract, t *Tensor, i int, description string) {
	if !r.room() {
		return
	}
	index := make([]string, len(t.Shape))
	for d := len(t.Shape) - 1; d >= 0; d-- {
		n := int(t.Shape[d])
		index[d] = strconv.Itoa(i % n)
		if d == 1 && in.columns != nil {
			index[d] = strconv.Quote(in.columns[i%n])
		}
		i /= n
	}
	field := "inputs[" + strconv.Quote(in.name) + "]"
	if len(index) > 0 {
		field += "[" + strings.Join(index, ",") + "]"
	}
	r.add(field, description)
}
