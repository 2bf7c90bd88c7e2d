package interceptors

import (
	"errors"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
)

// validate checks the message against the rules of its schema. It is also
// where a message that could not be decoded ends: known to the gates before
// it, paid for, and refused.
func (c *Chain) validate(call *Call, m *Message) error {
	if m.Err != nil {
		return m.Err
	}
	if !m.valid {
		if err := c.validator.Validate(m.Proto); err != nil {
			return invalid(err)
		}
	}
	if m.Subject.Inputs != nil {
		if call.digest == nil {
			call.digest = c.cfg.Digester.New()
		}
		m.Subject.Inputs.DigestTo(call.digest)
	}
	if call.gatesDone.IsZero() {
		call.gatesDone = c.cfg.Now()
	}
	return nil
}

func invalid(err error) *Refusal {
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		return &Refusal{Reason: Internal, Cause: err}
	}
	refusal := &Refusal{Reason: RequestInvalid}
	for _, v := range broken.Violations[:min(len(broken.Violations), maxViolations)] {
		refusal.Violations = append(refusal.Violations, &errdetails.BadRequest_FieldViolation{
			Field:       protovalidate.FieldPathString(v.Proto.GetField()),
			Description: v.Proto.GetMessage(),
			Reason:      v.Proto.GetRuleId(),
		})
	}
	return refusal
}
