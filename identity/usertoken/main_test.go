package usertoken_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const audience = "sallyport.test"

// oidc is the configuration of an issuer, all else as unset.
func oidc(i *identitytest.Issuer) usertoken.OIDC {
	return usertoken.OIDC{Issuer: i.URL(), Audiences: []string{"another.test", audience}, CAFile: i.CAFile()}
}

func open(tb testing.TB, cfg usertoken.Config) *usertoken.Verifier {
	tb.Helper()
	v, err := usertoken.New(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := v.Close(); err != nil {
			tb.Error(err)
		}
	})
	return v
}

// refuse holds that the token is refused with exactly the sentinel, and that the
// error tells nothing of the token that it must not.
func refuse(t *testing.T, v *usertoken.Verifier, token string, want error) {
	t.Helper()
	user, err := v.Verify(t.Context(), token)
	if err == nil || user != nil {
		t.Fatalf("accepted: %+v", user)
	}
	for _, sentinel := range []error{identity.ErrTokenInvalid, identity.ErrTokenExpired, identity.ErrKeysUnavailable} {
		if got := errors.Is(err, sentinel); got != errors.Is(want, sentinel) {
			t.Errorf("error %q: wraps %q: %v", err, sentinel, got)
		}
	}
	for _, part := range append(strings.Split(token, "."), "alice", "root") {
		if len(part) > 3 && strings.Contains(err.Error(), part) {
			t.Errorf("error %q: quotes %q of the token", err, part)
		}
	}
	if len(err.Error()) > 700 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}

func accept(t *testing.T, v *usertoken.Verifier, token string) *identity.User {
	t.Helper()
	user, err := v.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return user
}

func shortRSA(t *testing.T) *identitytest.TokenKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return &identitytest.TokenKey{ID: "k", Algorithm: jose.RS256, Private: key}
}

// eventually waits until Verify answers with the sentinel, or nil.
func eventually(t *testing.T, v *usertoken.Verifier, token string, want error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		_, err := v.Verify(ctx, token)
		if want == nil && err == nil || want != nil && errors.Is(err, want) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("still %v, want %v", err, want)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
