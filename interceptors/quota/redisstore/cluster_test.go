//go:build redis

package redisstore_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/sallyport/sallyport/interceptors/quota"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

// startCluster is a cluster of one server, which has all slots, and the addresses
// of it by which a store takes it for one.
func startCluster(t *testing.T) (*redistest.Server, []string) {
	t.Helper()
	server := redistest.Start(t, "--cluster-enabled", "yes")
	c := redis.NewClient(&redis.Options{Addr: server.Address, DisableIdentity: true})
	defer c.Close() //nolint:errcheck // a test's
	if err := c.Do(t.Context(), "cluster", "addslotsrange", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster is up", func() bool {
		info, err := c.ClusterInfo(t.Context()).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
	_, port, err := net.SplitHostPort(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	return server, []string{server.Address, "localhost:" + port}
}

func TestCluster(t *testing.T) {
	_, addresses := startCluster(t)
	s, err := redisstore.New(redisstore.Config{Addresses: addresses, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // a test's
	l := limiter(t, quota.Config{Store: s, Lease: half})
	if n := use(t, l, slow); n != 100 {
		t.Errorf("%d of 100 requests", n)
	}
	if _, err := l.AcquireStream(t.Context(), "a", "role", &slow); err != nil {
		t.Error(err)
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

// What may have been done is not sent again, by whatever client.
func TestNothingIsSentTwice(t *testing.T) {
	single := redistest.Start(t)
	cluster, addresses := startCluster(t)
	for name, tt := range map[string]struct {
		server    *redistest.Server
		addresses []string
	}{"one server": {single, []string{single.Address}}, "a cluster": {cluster, addresses}} {
		t.Run(name, func(t *testing.T) {
			s, err := redisstore.New(redisstore.Config{Addresses: tt.addresses, Timeout: 200 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close() //nolint:errcheck // a test's
			take := quota.Exchange{Account: account, Limits: slow, Need: quota.Amounts{quota.KindRequests: 5}}
			exchange(t, s, take)
			tt.server.Hang()
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // time for more than one
			defer cancel()
			if _, err := s.Exchange(ctx, &take); err == nil {
				t.Error("a server that hangs answered")
			}
			tt.server.Resume()
			// Answered behind what came before on any connection.
			look := take
			look.Need = quota.Amounts{}
			var left float64
			eventually(t, "it answers again", func() bool {
				a, err := s.Exchange(t.Context(), &look)
				left = a.Left[quota.KindRequests]
				return err == nil
			})
			if left < 90 || left > 96 {
				t.Errorf("%v left of 100 after 5 were taken once or twice", left)
			}
		})
	}
}
