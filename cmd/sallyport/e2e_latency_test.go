package main_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/devauthority"
	"github.com/sallyport/sallyport/interceptors"
)

// federation lets a federated domain do what the clinic may.
var (
	partnerDomain = spiffeid.RequireTrustDomainFromString("partner.test")
	federation    = strings.Replace(generous, `callers: ["spiffe://sallyport.test/clinic/*"]`,
		`callers: ["spiffe://sallyport.test/clinic/*", "spiffe://partner.test/*"]`, 1)
)

// rounds is how often a latency is measured: a few times to see that it holds,
// SALLYPORT_ROUNDS times for a figure.
func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("SALLYPORT_ROUNDS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("SALLYPORT_ROUNDS=%s: %v", text, err)
	}
	return n
}

// bound is how soon whatever is open must have ended after the cause.
const bound = time.Second

// An idle stream ends with the reason, and an idle connection is closed, within
// a second of the cause; measured from what the operator or the agent does.
func TestTimeToEnd(t *testing.T) {
	dir := newConfig(t, "")
	write(t, dir+"/sallyport.yaml", strings.Replace(config, "[sallyport.test]", "[sallyport.test, partner.test]", 1))
	write(t, dir+"/policy.yaml", federation)
	authority := startAuthority(t, dir, 6*time.Second)
	s := startServe(t, dir)
	n := rounds(t)
	var table strings.Builder
	fmt.Fprintf(&table, "%-22s %8s %8s   %8s %8s   of %d\n", "cause", "stream", "", "closed", "", n)
	fmt.Fprintf(&table, "%-22s %8s %8s   %8s %8s\n", "", "median", "max", "median", "max")
	line := func(cause string, streams, connections []time.Duration) {
		figure := func(d []time.Duration) (median, most string) {
			if len(d) == 0 {
				return "-", "-"
			}
			slices.Sort(d)
			if d[len(d)-1] > bound {
				t.Errorf("%s: took up to %v", cause, d[len(d)-1])
			}
			ms := func(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
			return ms(d[len(d)/2]), ms(d[len(d)-1])
		}
		a, b := figure(streams)
		c, d := figure(connections)
		fmt.Fprintf(&table, "%-22s %8s %8s   %8s %8s\n", cause, a, b, c, d)
	}

	t.Run("expiry", func(t *testing.T) {
		var streams, connections []time.Duration
		var mu sync.Mutex // guards both
		var open sync.WaitGroup
		source := openSource(t, s, "clinic")
		for range n {
			h := s.hold(t, pin(t, source))
			open.Go(func() {
				stream, closed := h.ends(t, interceptors.IdentityExpired)
				mu.Lock()
				defer mu.Unlock()
				streams = append(streams, stream.Sub(h.notAfter))
				connections = append(connections, closed.Sub(h.notAfter))
			})
			time.Sleep(50 * time.Millisecond) // so that they do not all end at once
		}
		open.Wait()
		line("SVID expires", streams, connections)
	})

	// measure opens, makes the cause happen, and mends it.
	measure := func(cause, workload string, reason interceptors.Reason, closes bool, happen, mend func()) {
		t.Run(cause, func(t *testing.T) {
			var streams, connections []time.Duration
			source := openSource(t, s, workload)
			for range n {
				// Its SVID must not end before the cause.
				eventually(t, func() error {
					if left := time.Until(source.NotAfter()); left < 3*time.Second {
						return fmt.Errorf("the SVID has only %v left", left)
					}
					return nil
				})
				h := s.hold(t, pin(t, source))
				start := time.Now()
				happen()
				if closes {
					stream, closed := h.ends(t, reason)
					streams, connections = append(streams, stream.Sub(start)), append(connections, closed.Sub(start))
				} else {
					streams = append(streams, h.streamEnds(t, reason).Sub(start))
					_ = h.conn.Close()
				}
				mend()
				s.letsIn(t, source)
			}
			line(cause, streams, connections)
		})
	}
	federates := func(with ...spiffeid.TrustDomain) func() {
		return func() {
			if err := authority.Update("server", func(w *devauthority.Workload) { w.FederatesWith = with }); err != nil {
				t.Error(err)
			}
		}
	}
	policy := func(text string) func() { return func() { replace(t, dir+"/policy.yaml", text) } }
	measure("bundle removed", "partner", interceptors.IdentityRevoked, true, federates(), federates(partnerDomain))
	s.says(t, `level=WARN msg="no bundle: .* trust domain partner.test can connect"`)
	if !strings.Contains(s.events(t), "identity: no bundle: ") {
		t.Error("a bundle that left is not on record")
	}
	measure("caller blocked", "clinic", interceptors.IdentityRevoked, true,
		policy(federation+"blocked: [{callers: ['spiffe://sallyport.test/clinic/triage'], reason: stolen key}]\n"), policy(federation))
	measure("policy takes the role", "clinic", interceptors.PolicyDenied, false,
		policy(strings.Replace(federation, "sallyport.test/clinic/*", "sallyport.test/other/*", 1)), policy(federation))
	t.Logf("time from the cause to the end\n%s", table.String())
}

func openSource(t *testing.T, s *server, workload string) *identity.Source {
	t.Helper()
	source, err := identity.Open(t.Context(), identity.Config{WorkloadAPI: s.socket(workload)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = source.Close() })
	return source
}

// held is a connection that idles, with a stream that does.
type held struct {
	conn     *grpc.ClientConn
	stream   predictStream
	notAfter time.Time
}

// hold opens a connection and a stream and leaves both alone.
func (s *server) hold(t *testing.T, source *pinned) *held {
	t.Helper()
	creds, err := identity.NewClientCredentials(source, identity.DefaultServer())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(creds), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &caller{conn: conn}
	c.PredictionServiceClient = inferencev1.NewPredictionServiceClient(conn)
	stream, _, err := c.open(t.Context(), breastCancer)
	if err != nil {
		t.Fatal(err)
	}
	return &held{conn, stream, source.svid.Certificates[0].NotAfter}
}

// streamEnds waits for the end of the stream, which must be for the reason.
func (h *held) streamEnds(t *testing.T, reason interceptors.Reason) time.Time {
	_, err := h.stream.Recv()
	end := time.Now()
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == string(reason) {
			return end
		}
	}
	t.Errorf("the stream ended with %v, want %s", err, reason)
	return end
}

// ends waits for the end of stream and connection.
func (h *held) ends(t *testing.T, reason interceptors.Reason) (stream, closed time.Time) {
	stream = h.streamEnds(t, reason)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if h.conn.GetState() == connectivity.Ready && !h.conn.WaitForStateChange(ctx, connectivity.Ready) {
		t.Errorf("the connection stays open")
	}
	closed = time.Now()
	_ = h.conn.Close()
	return stream, closed
}

// letsIn waits until the server answers the source's workload on a new
// connection.
func (s *server) letsIn(t *testing.T, source *identity.Source) {
	t.Helper()
	eventually(t, func() error {
		c, err := s.dial(source)
		if err != nil {
			return err
		}
		defer func() { _ = c.conn.Close() }()
		_, err = c.predict(t.Context(), breastCancer)
		return err
	})
}

// pinned shows one SVID for ever.
type pinned struct {
	*identity.Source
	svid *x509svid.SVID
}

func pin(t *testing.T, source *identity.Source) *pinned {
	t.Helper()
	svid, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	return &pinned{source, svid}
}

func (p *pinned) GetX509SVID() (*x509svid.SVID, error) { return p.svid, nil }
