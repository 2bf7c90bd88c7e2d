package main_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/identity/identitytest"
)

// A server starts while an issuer of tokens is down, refuses what it cannot verify,
// says so, and goes on when the issuer is back.
func TestIssuerIsDown(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	issuer.Answer(http.NotFoundHandler())
	dir := newSite(t, "")
	write(t, dir+"/sallyport.yaml", strings.Replace(config, "  trust_domains: [sallyport.test]\n", fmt.Sprintf(`
  trust_domains: [sallyport.test]
  users:
    oidc: [{issuer: %q, audiences: [sallyport], ca_file: %q}]
`, issuer.URL(), issuer.CAFile()), 1))
	s := startServe(t, dir)
	clinic := s.as(t, "clinic")
	call := func() error {
		token := issuer.Token(t, issuer.Claims("sallyport"))
		_, err := clinic.predict(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token), breastCancer)
		return err
	}
	says := func(want string, unusable float64) error {
		_, body, err := s.get(t.Context(), "/readyz")
		if err != nil {
			return err
		}
		if !strings.Contains(body, want) {
			return fmt.Errorf("/readyz lacks %q:\n%s", want, body)
		}
		if got := s.metrics(t).value("sallyport_issuers_unusable"); got != unusable {
			return fmt.Errorf("sallyport_issuers_unusable %v", got)
		}
		return nil
	}
	eventually(t, func() error {
		return says("users: ok: 1 issuer, tokens of "+issuer.URL()+" are refused: ", 1)
	})
	if err := call(); status.Code(err) != codes.Unavailable {
		t.Errorf("answered with %v", err)
	}
	if _, err := clinic.predict(t.Context(), breastCancer); err != nil {
		t.Errorf("a caller without a user: %v", err)
	}
	issuer.Answer(nil)
	eventually(t, call)
	if err := says("users: ok: 1 issuer\n", 0); err != nil {
		t.Error(err)
	}
}
