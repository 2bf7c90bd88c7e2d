package batch

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// retryIn is how long the server asks to wait; false if that would not help.
func retryIn(st *status.Status) (time.Duration, bool) {
	if st.Code() != codes.ResourceExhausted && st.Code() != codes.Unavailable {
		return 0, false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok && info.GetRetryDelay() != nil {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// statusOf is the status in err; nil if there is none.
func statusOf(err error) *status.Status {
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) {
		return nil
	}
	return s.GRPCStatus()
}

// reasonOf is the server's reason, or the name of the code.
func reasonOf(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() != "" {
			return info.GetReason()
		}
	}
	return strings.ToUpper(st.Code().String())
}

// rowField is the row in the field of a violation: inputs["x"][12,"a"] is row 12.
var rowField = regexp.MustCompile(`^(inputs\["(?:[^"\\]|\\.)*"\])\[(\d+)(?:,(.*))?\]$`)

// refusedRows are what a refusal says of single rows of a batch, by their places
// in it; empty if it names none.
func refusedRows(st *status.Status, rows int) map[int]string {
	found := map[int]string{}
	for _, d := range st.Details() {
		bad, ok := d.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, v := range bad.GetFieldViolations() {
			m := rowField.FindStringSubmatch(v.GetField())
			if m == nil {
				continue
			}
			row, err := strconv.Atoi(m[2])
			if err != nil || row >= rows {
				continue
			}
			text := m[1]
			if m[3] != "" {
				text += "[" + m[3] + "]"
			}
			text += " " + v.GetDescription()
			if before := found[row]; before != "" {
				text = before + "; " + text
			}
			found[row] = text
		}
	}
	return found
}

// textOf is what a refusal says to people.
func textOf(st *status.Status) string {
	text := st.Message()
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			var fields []string
			for _, v := range d.GetFieldViolations() {
				fields = append(fields, v.GetField()+" "+v.GetDescription())
			}
			text = strings.Join(fields, "; ")
		case *errdetails.RequestInfo:
			if st.Code() == codes.Internal {
				text += ", call id " + d.GetRequestId()
			}
		}
	}
	return text
}

// passing tells whether a batch that failed may run when it is sent once more.
func passing(st *status.Status) bool {
	return slices.Contains([]codes.Code{codes.Internal, codes.DeadlineExceeded, codes.Unknown}, st.Code())
}

// ofRows tells whether the batch is refused for its rows, so that fewer of them may
// do.
func ofRows(st *status.Status) bool {
	return passing(st) || st.Code() == codes.InvalidArgument || st.Code() == codes.ResourceExhausted
}
