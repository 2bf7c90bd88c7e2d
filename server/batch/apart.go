package batch

import (
	"sync"
	"time"
)

// apartFor is how long requests of a caller that made a merged run fail are merged
// with its own only.
const apartFor = time.Minute

// apart is who made runs of merged requests fail a short time ago. Each such run costs
// the others one run each instead of one together; so that no caller takes merging
// from all, it can do that once in apartFor.
type apart struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

// add puts a caller apart.
func (a *apart) add(caller string) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for other, end := range a.until {
		if now.After(end) {
			delete(a.until, other)
		}
	}
	if a.until == nil {
		a.until = make(map[string]time.Time)
	}
	a.until[caller] = now.Add(apartFor)
}

// has tells whether a caller is apart.
func (a *apart) has(caller string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	end, ok := a.until[caller]
	return ok && time.Now().Before(end)
}
