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

func TestCallerInContext(t *testing.T) {
	if c := identity.FromContext(t.Context()); c != nil {
		t.Errorf("caller %v from nowhere", c)
	}
	c := new(identity.Caller)
	if got := identity.FromContext(identity.NewContext(t.Context(), c)); got != c {
		t.Errorf("caller %v", got)
	}
}
