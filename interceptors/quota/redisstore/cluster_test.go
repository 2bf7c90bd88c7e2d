//go:build redis

package redisstore_test

import (
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
	single := redistest.NewProxy(t, redistest.Start(t).Address)
	server, _ := startCluster(t)
	cluster := redistest.NewProxy(t, server.Address)
	_, port, err := net.SplitHostPort(cluster.Address)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(&redis.Options{Addr: server.Address, DisableIdentity: true})
	defer c.Close() //nolint:errcheck // a test's
	if err := c.ConfigSet(t.Context(), "cluster-announce-port", port).Err(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		proxy     *redistest.Proxy
		addresses []string
	}{
		"one server": {single, []string{single.Address}},
		"a cluster":  {cluster, []string{cluster.Address, "localhost:" + port}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := redisstore.New(redisstore.Config{Addresses: tt.addresses, Timeout: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close() //nolint:errcheck // a test's
			take := quota.Exchange{Account: account, Limits: slow, Need: quota.Amounts{quota.KindRequests: 5}}
			exchange(t, s, take)
			tt.proxy.LoseNextReply()
			if _, err := s.Exchange(t.Context(), &take); err == nil {
				t.Error("an answer that was lost came")
			}
			if left := exchange(t, s, quota.Exchange{Limits: slow}).Left[quota.KindRequests]; left < 90 || left > 91 {
				t.Errorf("%v left of 100 after 5 were taken twice, the second time without an answer", left)
			}
		})
	}
}
