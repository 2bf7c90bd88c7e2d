package policy

import (
	"context"
	"time"
)

// Kept is how many grants of pairs of scope and class are kept.
func (ix *Index) Kept() int {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.kept
}

// SetMaxKept replaces the bound on them.
func (ix *Index) SetMaxKept(n int) { ix.maxKept = n }

// SetTimes replaces how long a file must hold still and how often Run looks.
func (s *Store) SetTimes(settle, poll time.Duration) { s.settle, s.poll = settle, poll }

// Look returns what Run does each time it looks at the file.
func (s *Store) Look() func(context.Context) (again bool) { return (&watch{store: s}).look }
