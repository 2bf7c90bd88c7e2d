package audit

import "os"

// What tests have to reach: the interval of the committer's probe, and the
// sync, because no disk fails or hangs in it on demand.
const (
	ProbeInterval = probeInterval
	MaxCommit     = maxCommit
)

func (c Config) WithSync(sync func(*os.File) error) Config {
	c.sync = sync
	return c
}
