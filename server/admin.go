package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one condition of being ready.
type Check struct {
	// Name of the condition, one word.
	Name string
	// Err says why it does not hold; nil if it does. It must not block.
	Err func() error
	// Note is more to say while it holds; may be nil. It must not block.
	Note func() string
}

func failing(checks []Check) map[string]error {
	var failed map[string]error
	for _, c := range checks {
		if err := c.Err(); err != nil {
			if failed == nil {
				failed = make(map[string]error)
			}
			failed[c.Name] = err
		}
	}
	return failed
}

// Page is one more page for the operator.
type Page struct {
	// Path it is at: "/quota".
	Path string
	// Serve answers GET.
	Serve http.HandlerFunc
}

// ServeAdmin answers the operator on lis until ctx ends: /livez while the
// process runs, /readyz with each check's state, /metrics, and the pages. It has no
// authentication: lis must be on the loopback interface, or it is an error.
func ServeAdmin(ctx context.Context, lis net.Listener, checks []Check, metrics prometheus.Gatherer, pages ...Page) error {
	if a, ok := lis.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return fmt.Errorf("server: the admin listener %s is not on the loopback interface", lis.Addr())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		failed := failing(checks)
		if len(failed) > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		for _, c := range checks {
			state := "ok"
			if err := failed[c.Name]; err != nil {
				state = "failing: " + err.Error()
			} else if c.Note != nil {
				state += ": " + c.Note()
			}
			_, _ = fmt.Fprintf(w, "%s: %s\n", c.Name, strings.ReplaceAll(state, "\n", "; "))
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	for _, p := range pages {
		mux.HandleFunc("GET "+p.Path, p.Serve)
	}
	h := &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(lis) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := h.Shutdown(stopping); err != nil {
		_ = h.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
