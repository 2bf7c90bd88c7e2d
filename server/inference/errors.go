package inference

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/sallyport/sallyport/interceptors"
	batching "github.com/sallyport/sallyport/server/batch"
	"github.com/sallyport/sallyport/server/model"
)

// How long a caller is asked to wait when too much waits for models: as long as the
// wait would have been, but long enough for a queue to move and short enough to be
// used.
const (
	minRetryOverloaded = 100 * time.Millisecond
	maxRetryOverloaded = 30 * time.Second
)

// refusal is the table from errors of the domain to what the caller gets.
// Errors that it does not know pass and become INTERNAL at the chain.
func refusal(err error) error {
	var violated *model.ContractError
	var overloaded *batching.OverloadedError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, model.ErrNotFound):
		return &interceptors.Refusal{Reason: interceptors.ModelNotFound, Cause: err}
	case errors.Is(err, model.ErrNotReady):
		return &interceptors.Refusal{Reason: interceptors.ModelNotReady, Cause: err}
	case errors.As(err, &overloaded):
		return &interceptors.Refusal{
			Reason: interceptors.Overloaded, Cause: err,
			RetryAfter: min(max(overloaded.Wait, minRetryOverloaded), maxRetryOverloaded),
		}
	case errors.Is(err, model.ErrInvalidInput):
		// The error's text can hold values of the inputs, which are not recorded.
		return interceptors.Refuse(interceptors.ContractViolated, "the graph cannot run on these inputs")
	case errors.As(err, &violated):
		r := &interceptors.Refusal{Reason: interceptors.ContractViolated}
		for _, v := range violated.Violations {
			r.Violations = append(r.Violations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		if violated.More > 0 {
			r.Violations = append(r.Violations, &errdetails.BadRequest_FieldViolation{
				Field: "inputs", Description: fmt.Sprintf("and %d more violations", violated.More),
			})
		}
		return r
	}
	return err
}

// invalid refuses a request for what one field holds.
func invalid(field, description string) error {
	return &interceptors.Refusal{
		Reason:     interceptors.RequestInvalid,
		Violations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: description}},
	}
}
