package quota_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// fullStore has no place for a stream left; when lost, its answers do not arrive.
type fullStore struct {
	giver
	lost atomic.Bool
}

func (f *fullStore) Places(_ context.Context, _ quota.Account, places, _ int64) (bool, error) {
	if f.lost.Load() {
		return false, errors.New("i/o timeout")
	}
	return places == 0, nil
}

// A lost answer gives no place that the store did not give.
func TestLostAnswerGivesNoPlace(t *testing.T) {
	store := &fullStore{}
	l := quota.New(quota.Config{Store: store})
	defer func() { _ = l.Close(context.Background()) }()
	limits := quota.Limits{RequestsPerSecond: 100, RequestBurst: 100, RowsPerSecond: 1, RowBurst: 1, MaxRowsPerRequest: 1, MaxStreams: 2}
	for range 3 {
		for _, lost := range []bool{true, false} {
			store.lost.Store(lost)
			if st, err := l.AcquireStream(t.Context(), "me", "role", &limits); err == nil {
				st.Close()
				t.Fatalf("a stream was let in, answer lost: %v", lost)
			}
		}
	}
}
