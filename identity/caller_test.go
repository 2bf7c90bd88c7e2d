package identity_test

import (
	"testing"
	"time"

	"github.com/sallyport/sallyport/identity"
)

func TestCallerExpired(t *testing.T) {
	end := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := &identity.Caller{NotAfter: end}
	for now, want := range map[time.Time]bool{
		end.Add(-time.Nanosecond): false,
		end:                       true,
		end.Add(time.Hour):        true,
	} {
		if got := c.Expired(now); got != want {
			t.Errorf("at %v: %v", now, got)
		}
	}
}
