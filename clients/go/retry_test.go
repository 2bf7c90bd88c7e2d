package sallyport_test

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	"github.com/sallyport/sallyport/identity"
)

func TestRetriable(t *testing.T) {
	const never, known, always = 0, 1, 2 // known: if the server was there before
	for name, tt := range map[string]struct {
		err  error
		want int
	}{
		"draining":          {refusal(codes.Unavailable, "DRAINING"), always},
		"wrapped":           {fmt.Errorf("x: %w", refusal(codes.Unavailable, "DRAINING")), always},
		"connection lost":   {status.Error(codes.Unavailable, "error reading from server: EOF"), always},
		"not connected":     {status.Error(codes.Unavailable, `connection error: desc = "..."`), known},
		"our identity":      {status.Error(codes.Unavailable, `connection error: desc = "`+identity.ErrCallerRefused.Error()+`"`), never},
		"their identity":    {status.Error(codes.Unavailable, `connection error: desc = "`+identity.ErrServerRefused.Error()+`"`), never},
		"expired":           {refusal(codes.Unauthenticated, "IDENTITY_EXPIRED"), always},
		"revoked":           {refusal(codes.Unauthenticated, "IDENTITY_REVOKED"), never},
		"token expired":     {refusal(codes.Unauthenticated, "TOKEN_EXPIRED"), never},
		"connection closed": {status.Error(codes.Canceled, "grpc: the client connection is closing"), always},
		"cancelled there":   {refusal(codes.Canceled, "CANCELLED"), never},
		"over quota":        {refusal(codes.ResourceExhausted, "QUOTA_ROWS"), never},
		"denied":            {refusal(codes.PermissionDenied, "POLICY_DENIED"), never},
		"invalid":           {refusal(codes.InvalidArgument, "REQUEST_INVALID"), never},
		"deadline":          {status.Error(codes.DeadlineExceeded, "x"), never},
		"no gRPC at all":    {errors.New("x"), never},
		"none":              {nil, never},
	} {
		if got := sallyport.Retriable(tt.err, false); got != (tt.want == always) {
			t.Errorf("%s, of a server that was never there: %v", name, got)
		}
		if got := sallyport.Retriable(tt.err, true); got != (tt.want != never) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
