package interceptors_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// logBuffer is a log that a test reads.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Whatever becomes of a call, neither the audit log nor the log has the subject of
// its user. The same calls without a pseudonymizer show that it would be found.
func TestPseudonymsKeepSubjectsOut(t *testing.T) {
	const subject = "alice.smith@clinic.example"
	p, err := audit.NewPseudonymizer(make([]byte, audit.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	pseudonym := p.Pseudonym(subject)
	issuer := identitytest.NewIssuer(t)
	users := verifier(t, issuer)
	when := func(condition string) string { // for /portal
		return strings.Replace(worldPolicy, "bindings:", fmt.Sprintf(`
  - name: odd
    rules: [{actions: [PREDICT, PREDICT_STREAM], models: [breast-cancer], when: %q}]
    limits: {requests_per_second: 100, rows_per_second: 1000, max_streams: 9}
bindings:
  - {role: odd, callers: ["spiffe://sallyport.test/portal"]}`, condition), 1)
	}
	lookup := when("{'a': true}[user.subject]")
	type play struct {
		policy, shadow, caller string
		expires                time.Duration // how soon the token ends; 0 for late
		then                   string        // the policy that a stream is rechecked by
		// Where the subject is without pseudonyms, beside User of the record.
		inDetail, inShadow bool
	}
	for name, tt := range map[string]play{
		"answered":                   {policy: worldPolicy, caller: "/clinic/triage"},
		"no role":                    {policy: worldPolicy, caller: "/nobody"},
		"for others":                 {policy: worldPolicy + `  - {role: reader, callers: ["spiffe://sallyport.test/portal"], user: {issuer: "` + issuer.URL() + `", subjects: [bob]}}` + "\n", caller: "/portal"},
		"a condition shows it":       {policy: lookup, caller: "/portal", inDetail: true},
		"a condition shows part":     {policy: when("{'a': true}[user.subject + '-']"), caller: "/portal", inDetail: true},
		"a shadow's condition":       {policy: when("true"), shadow: lookup, caller: "/portal", inShadow: true},
		"the token ends":             {policy: worldPolicy, caller: "/clinic/triage", expires: 2 * time.Second, inDetail: true},
		"another policy in a stream": {policy: when("true"), caller: "/portal", then: lookup, inDetail: true},
	} {
		for form, call := range forms {
			opened := tt.expires > 0 || tt.then != ""
			if opened && form == "unary" {
				continue // a unary call is over before
			}
			for _, on := range []*audit.Pseudonymizer{nil, p} {
				t.Run(fmt.Sprintf("%s/%s/%v", name, form, on != nil), func(t *testing.T) {
					var lines logBuffer
					w := newWorld(t, worldOptions{users: users, change: func(cfg *interceptors.Config) {
						cfg.Pseudonymizer = on
						cfg.Log = slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))
					}})
					w.setPolicy(t, tt.policy)
					if tt.shadow != "" {
						w.shadow.Store(compile(t, tt.shadow))
					}
					claims := issuer.Claims(audience).With("sub", subject)
					if tt.expires > 0 {
						claims = claims.With("exp", time.Now().Add(tt.expires).Unix())
					}
					ctx := onBehalf(t.Context(), "Bearer "+issuer.Token(t, claims))
					client := inferencev1.NewPredictionServiceClient(w.dial(t, tt.caller))
					if opened {
						stream, err := client.PredictStream(ctx)
						if err != nil {
							t.Fatal(err)
						}
						if err := stream.Send(openStream("breast-cancer")); err != nil {
							t.Fatal(err)
						}
						if _, err := stream.Recv(); err != nil {
							t.Fatal(err)
						}
						if tt.then != "" {
							w.setPolicy(t, tt.then)
							w.chain.Recheck()
						}
						if _, err := stream.Recv(); err == nil {
							t.Fatal("the stream goes on")
						}
					} else {
						_ = call(ctx, client)
					}
					r := w.only(t, func(*auditv1.Record) bool { return true })
					want := subject
					if on != nil {
						want = pseudonym
					}
					if got := r.GetUser().GetSubject(); got != want {
						t.Errorf("the user on record is %q, want %q", got, want)
					}
					kept := lines.String()
					names, err := filepath.Glob(filepath.Join(w.auditDir, "*"))
					if err != nil || len(names) == 0 {
						t.Fatalf("no audit log: %v", err)
					}
					for _, name := range names {
						b, err := os.ReadFile(name)
						if err != nil {
							t.Fatal(err)
						}
						kept += string(b)
					}
					if on != nil {
						for _, part := range []string{subject, "alice", "clinic.example"} {
							if i := strings.Index(kept, part); i >= 0 {
								t.Errorf("%q is kept: ...%q...", part, kept[max(i-200, 0):min(i+100, len(kept))])
							}
						}
						return
					}
					if got := strings.Contains(r.GetDetail(), subject); got != tt.inDetail {
						t.Errorf("without pseudonyms the detail is %q", r.GetDetail())
					}
					if got := strings.Contains(r.GetShadow().GetDetail(), subject); got != tt.inShadow {
						t.Errorf("without pseudonyms the shadow's detail is %q", r.GetShadow().GetDetail())
					}
					if tt.inDetail && !strings.Contains(lines.String(), subject) {
						t.Errorf("without pseudonyms the log lacks the subject:\n%s", lines.String())
					}
				})
			}
		}
	}
}

// A condition that fails without a user's doing says why, pseudonyms or not.
func TestPseudonymsLeaveDetails(t *testing.T) {
	p, err := audit.NewPseudonymizer(make([]byte, audit.KeyBytes))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, worldOptions{change: func(cfg *interceptors.Config) { cfg.Pseudonymizer = p }})
	w.setPolicy(t, strings.Replace(worldPolicy, "bindings:", `
  - name: odd
    rules: [{actions: [PREDICT], models: [breast-cancer], when: "1 / (rows - rows) == 0"}]
    limits: {requests_per_second: 100, rows_per_second: 1000, max_streams: 9}
bindings:
  - {role: odd, callers: ["spiffe://sallyport.test/portal"]}`, 1))
	_ = forms["unary"](t.Context(), inferencev1.NewPredictionServiceClient(w.dial(t, "/portal")))
	r := w.only(t, func(*auditv1.Record) bool { return true })
	if !strings.Contains(r.GetDetail(), "division by zero") {
		t.Errorf("detail %q", r.GetDetail())
	}
	if r.GetUser() != nil {
		t.Errorf("a user %v", r.GetUser())
	}
}
