package identity

import (
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// maxRetry is the longest wait between two tries to reach the Workload API. It is
// on the same machine, and until it is back no withdrawn bundle is known: the
// waits of go-spiffe, up to 30 s, and of gRPC, up to 2 min, are too long. After a
// restart of a SPIRE agent, identities were back after 11 to 27 s with those.
const maxRetry = 2 * time.Second

// retrying are the options with which a client tries again after 1 s, then every 2 s.
func retrying() []workloadapi.ClientOption {
	return []workloadapi.ClientOption{
		workloadapi.WithBackoffStrategy(retryStrategy{}),
		workloadapi.WithDialOptions(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRetry},
			MinConnectTimeout: maxRetry,
		})),
	}
}

type retryStrategy struct{}

func (retryStrategy) NewBackoff() workloadapi.Backoff { return new(retryWait) }

type retryWait struct{ last time.Duration }

func (w *retryWait) Next() time.Duration {
	w.last = min(w.last+time.Second, maxRetry)
	return w.last
}

func (w *retryWait) Reset() { w.last = 0 }
