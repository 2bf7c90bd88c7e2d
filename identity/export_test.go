package identity

// Hint is tested by itself because a test that runs as root meets no socket that
// it may not open.
var Hint = hint

// NewBackoff is how a source waits between two tries.
var NewBackoff = retryStrategy{}.NewBackoff
