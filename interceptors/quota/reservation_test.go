package quota_test

import (
	"testing"

	"github.com/sallyport/sallyport/interceptors/quota"
)

func TestSpentRowsAreNotRefunded(t *testing.T) {
	l := quota.New(quota.Config{Now: newClock().Now})
	r := reserve(t, l, "a", typical, 150)
	r.Spend(100, 0)
	r.Spend(-100, 0)
	if got := r.Rows(); got != 50 {
		t.Errorf("%d rows left, want 50", got)
	}
	r.Refund(150)
	reserve(t, l, "a", typical, 100) // 50 that were left, 50 refunded
	refused(t, l, "a", typical, 1)

	r = reserve(t, l, "b", typical, 10)
	r.Spend(100, 0)
	if got := r.Rows(); got != 0 {
		t.Errorf("%d rows left, want none", got)
	}
}

func TestJoin(t *testing.T) {
	l := quota.New(quota.Config{Now: newClock().Now})
	var held quota.Reservation
	for range 2 {
		r := reserve(t, l, "a", typical, 75)
		held.Join(&r)
		if r.Rows() != 0 {
			t.Errorf("%d rows are in both", r.Rows())
		}
	}
	if got := held.Rows(); got != 150 {
		t.Errorf("%d rows held, want 150", got)
	}

	other, err := l.Reserve("a", "new role", typical, 20)
	if err != nil {
		t.Fatal(err)
	}
	held.Join(&other)
	if got := held.Rows(); got != 20 {
		t.Errorf("%d rows held after a change of roles, want 20", got)
	}
	held.Refund(150)
	reserve(t, l, "a", typical, 50) // of the first account nothing came back
	refused(t, l, "a", typical, 1)
	if _, err := l.Reserve("a", "new role", typical, 150); err != nil {
		t.Errorf("of the second account all came back: %v", err)
	}
}
