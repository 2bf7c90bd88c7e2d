package identity

import "time"

// Hint is tested by itself because a test that runs as root meets no socket that
// it may not open.
var Hint = hint

// NewBackoff is how a source waits between two tries.
var NewBackoff = retryStrategy{}.NewBackoff

// AwaySince makes it so long that the JWT bundles of the source may be out of date.
func AwaySince(s *Source, since time.Time) { s.jwt.now.Store(&trouble{since: since}) }
