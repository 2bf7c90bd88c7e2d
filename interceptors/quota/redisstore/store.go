// Package redisstore keeps quotas in a Redis or Valkey, so that several replicas
// share them. Each exchange is one script, which runs as a whole on one key; the
// clock is the server's. Keys expire when they say no more than none would.
//
// It must be one that does not drop keys by itself (maxmemory-policy noeviction),
// and that keeps them over a restart where there are budgets (appendonly yes).
package redisstore

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sallyport/sallyport/interceptors/quota"
)

//go:embed exchange.lua
var exchangeLua string

//go:embed places.lua
var placesLua string

// Config says which server it is.
type Config struct {
	// Addresses, host and port. More than one: a cluster, unless MasterName is set.
	// A path is one of a unix socket.
	Addresses []string
	// MasterName is the master that the addresses, which are then sentinels, watch.
	MasterName string
	// Username and Password; empty for none.
	Username, Password string
	// Database is the number of the database.
	Database int
	// TLS is how the server is known; nil for plain TCP.
	TLS *tls.Config
	// KeyPrefix is what all keys begin with; "sallyport" if empty.
	KeyPrefix string
	// Timeout bounds reading, writing and waiting for a connection; 50 ms if 0.
	Timeout time.Duration
	// Replica names this replica among those that share the server; a random name
	// if empty.
	Replica string
	// Now is the clock that quotas are counted by; the server's if nil. For tests:
	// replicas with clocks of their own do not share limits.
	Now func() time.Time
}

// Store is a quota.Store.
type Store struct {
	client   redis.UniversalClient
	prefix   string
	replica  string
	now      func() time.Time
	exchange *redis.Script
	places   *redis.Script
}

var _ quota.Store = (*Store)(nil)

var quiet sync.Once

// New returns a store. It connects when it is first used, so that a server that is
// away does not keep it from being made.
func New(cfg Config) (*Store, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errors.New("redisstore: no address")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 50 * time.Millisecond
	}
	if cfg.KeyPrefix == "" {
		cfg.KeyPrefix = "sallyport"
	}
	if cfg.Replica == "" {
		cfg.Replica = rand.Text()
	}
	// Its errors are returned as well; what it writes by itself goes past our log.
	quiet.Do(logging.Disable)
	return &Store{
		client: client(cfg), prefix: cfg.KeyPrefix, replica: cfg.Replica, now: cfg.Now,
		exchange: redis.NewScript(exchangeLua), places: redis.NewScript(placesLua),
	}, nil
}

func client(cfg Config) redis.UniversalClient {
	opts := &redis.UniversalOptions{
		Addrs: cfg.Addresses, MasterName: cfg.MasterName,
		Username: cfg.Username, Password: cfg.Password, DB: cfg.Database, TLSConfig: cfg.TLS,
		// A round trip that may have been done is not done again: see once.
		MaxRetries:  -1,
		DialTimeout: max(cfg.Timeout, time.Second), ReadTimeout: cfg.Timeout, WriteTimeout: cfg.Timeout,
		PoolTimeout: cfg.Timeout, ContextTimeoutEnabled: true,
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if cfg.MasterName == "" && len(cfg.Addresses) > 1 {
		cluster := opts.Cluster()
		cluster.DisableRoutingPolicies = true // they do not know once
		return redis.NewClusterClient(cluster)
	}
	return redis.NewUniversalClient(opts)
}

// Close closes the connections.
func (s *Store) Close() error { return s.client.Close() }

// key is a key of an account. All keys of one are in one slot of a cluster.
func (s *Store) key(a quota.Account, what string) string {
	return s.prefix + ":{" + braces.Replace(a.Caller+" "+a.Key) + "}:" + what
}

// braces keeps a name from ending the part that decides the slot.
var braces = strings.NewReplacer("{", "%7B", "}", "%7D", "%", "%25")

// Exchange is quota.Store's.
func (s *Store) Exchange(ctx context.Context, x *quota.Exchange) (quota.Answer, error) {
	l := &x.Limits
	args := make([]any, 0, 40)
	args = append(args, s.micros(), l.RequestsPerSecond, l.RequestBurst, l.RowsPerSecond, l.RowBurst)
	most := l.Most()
	for _, n := range most[quota.KindDayRows:] {
		args = append(args, n)
	}
	args = append(args, x.Share, x.Keep.Milliseconds(), x.Day, x.Month)
	for _, amounts := range [...]*quota.Amounts{&x.Return, &x.Need, &x.Want} {
		for _, n := range amounts {
			args = append(args, n)
		}
	}
	reply, err := s.run(ctx, s.exchange, exchangeLua, s.key(x.Account, "use"), args)
	if err != nil {
		return quota.Answer{}, err
	}
	return answer(reply)
}

// answer reads what the script returned.
func answer(reply any) (quota.Answer, error) {
	values, ok := reply.([]any)
	if !ok || len(values) != 5+2*int(quota.Kinds) {
		return quota.Answer{}, fmt.Errorf("redisstore: the script answered %v", reply)
	}
	var err error
	number := func(v any) float64 {
		switch v := v.(type) {
		case int64:
			return float64(v)
		case string:
			f, e := strconv.ParseFloat(v, 64)
			err = errors.Join(err, e)
			return f
		}
		err = errors.Join(err, fmt.Errorf("redisstore: the script answered %T", v))
		return 0
	}
	a := quota.Answer{
		Passed: number(values[0]) == 1, Day: int64(number(values[1])), Month: int64(number(values[2])),
		DayEnds:   time.Duration(number(values[3])) * time.Microsecond,
		MonthEnds: time.Duration(number(values[4])) * time.Microsecond,
	}
	for k := range a.Taken {
		a.Taken[k] = int64(number(values[5+k]))
		a.Left[k] = number(values[5+int(quota.Kinds)+k])
	}
	return a, err
}

// Places is quota.Store's.
func (s *Store) Places(ctx context.Context, account quota.Account, places, most int64) (bool, error) {
	reply, err := s.run(ctx, s.places, placesLua, s.key(account, "streams"),
		[]any{s.micros() / 1000, s.replica, places, most, quota.PlacesTTL.Milliseconds()})
	if err != nil {
		return false, err
	}
	return reply == int64(1), nil
}

// Probe is quota.Store's: it writes, since a server that only reads is of no use.
func (s *Store) Probe(ctx context.Context) error {
	_, err := s.run(ctx, s.places, placesLua, s.key(quota.Account{Caller: "probe"}, s.replica),
		[]any{s.micros() / 1000, s.replica, 1, 1, time.Second.Milliseconds()})
	return err
}

// micros is the time by the clock that was given; 0 for the server's.
func (s *Store) micros() int64 {
	if s.now == nil {
		return 0
	}
	return s.now().UnixMicro()
}

// run runs a script, which the server may have to be sent first.
func (s *Store) run(ctx context.Context, script *redis.Script, source, key string, args []any) (any, error) {
	reply, err := s.do(ctx, append([]any{"evalsha", script.Hash(), 1, key}, args...))
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		reply, err = s.do(ctx, append([]any{"eval", source, 1, key}, args...))
	}
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return reply, nil
}

func (s *Store) do(ctx context.Context, args []any) (any, error) {
	cmd := once{redis.NewCmd(ctx, args...)}
	if err := s.client.Process(ctx, cmd); err != nil {
		return nil, err
	}
	return cmd.Result()
}

// once is a command that is not sent a second time if it may have been done. The
// client of a cluster repeats others whatever its options say.
type once struct{ *redis.Cmd }

// NoRetry is what go-redis asks.
func (once) NoRetry() bool { return true }
