package quota_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// Who looks for the end of a stream, or of its own time, does not find that of the
// store's connection.
func TestStoresErrorsAreNotTheCallers(t *testing.T) {
	for _, cause := range []error{io.EOF, context.DeadlineExceeded, context.Canceled} {
		err := error(&quota.Unavailable{Err: fmt.Errorf("redis: %w", cause)})
		if errors.Is(err, cause) || !strings.Contains(err.Error(), cause.Error()) {
			t.Errorf("%v is taken for %v", err, cause)
		}
	}
}
