package usertoken

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/sallyport/sallyport/identity"
)

// maxCached is how many verified tokens are remembered. What is remembered of one
// is less than the token, so the whole is 32 MiB at most, and a few hundred bytes
// each as tokens are.
const maxCached = 4096

// holds tells whether the key that verified a token is still one of its issuer.
type holds func() bool

// cache remembers who verified tokens prove, so that the signature of one that
// comes with each call is checked once. It remembers digests, not tokens. Its
// zero value is ready.
type cache struct {
	mu      sync.RWMutex // guards entries
	entries map[[sha256.Size]byte]entry
}

type entry struct {
	user  *identity.User
	valid holds
}

// get returns the user of a token whose key still holds, ended or not, or nil.
func (c *cache) get(digest [sha256.Size]byte) *identity.User {
	c.mu.RLock()
	e, ok := c.entries[digest]
	c.mu.RUnlock()
	if !ok {
		return nil
	}
	if !e.valid() {
		c.mu.Lock()
		delete(c.entries, digest)
		c.mu.Unlock()
		return nil
	}
	return e.user
}

// put makes room, if there is none, at the cost of tokens that have ended, or of
// any one.
func (c *cache) put(digest [sha256.Size]byte, user *identity.User, valid holds, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[[sha256.Size]byte]entry)
	}
	if len(c.entries) >= maxCached {
		c.evict(now)
	}
	c.entries[digest] = entry{user, valid}
}

// evict looks at a few entries only, which a map's order makes random ones.
func (c *cache) evict(now time.Time) {
	const look = 16
	seen := 0
	for digest, e := range c.entries {
		if seen == 0 || e.user.Expired(now) {
			delete(c.entries, digest)
		}
		if seen++; seen == look {
			return
		}
	}
}
