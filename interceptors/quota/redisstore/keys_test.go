//go:build redis

package redisstore_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

// expiry is how long the key still is.
func expiry(t *testing.T, server *redistest.Server, key string) time.Duration {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: server.Address, DisableIdentity: true})
	defer c.Close() //nolint:errcheck // a test's
	ttl, err := c.PTTL(t.Context(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	if ttl < 0 {
		t.Fatalf("key %q: no such key, or it never expires (%v)", key, ttl)
	}
	return ttl
}
