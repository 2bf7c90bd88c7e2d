package usertoken_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
)

// from serves keys elsewhere too, so that what is refused would have worked.
func from(issuer *identitytest.Issuer, discovery func() any, keys func(w http.ResponseWriter, r *http.Request)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(discovery())
	})
	mux.HandleFunc("/keys", keys)
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(issuer.JWKS()) })
	return mux
}

func TestIssuerInTrouble(t *testing.T) {
	for name, answer := range map[string]func(*testing.T, *identitytest.Issuer) http.Handler{
		"500": func(*testing.T, *identitytest.Issuer) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, strings.Repeat("down\x1b[31m", 1000), http.StatusInternalServerError)
			})
		},
		"500 for the keys, with keys": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, good(i), func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = w.Write(i.JWKS())
			})
		},
		"garbage": func(*testing.T, *identitytest.Issuer) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>login</html>") })
		},
		"garbage for keys": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, good(i), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>login</html>") })
		},
		"an object without keys": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, good(i), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"error":"later"}`) })
		},
		"too many keys": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, good(i), func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(bytes.Replace(i.JWKS(), []byte("["), []byte("["+strings.Repeat("{},", 62)), 1))
			})
		},
		"keys twice": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, good(i), func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(bytes.Replace(i.JWKS(), []byte("{"), []byte(`{"keys":[],`), 1))
			})
		},
		"huge": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, good(i), func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(append(i.JWKS(), bytes.Repeat([]byte(" "), 512<<10)...))
			})
		},
		"redirect of the keys": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, good(i), func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
		},
		"redirect of the keys to http": func(t *testing.T, i *identitytest.Issuer) http.Handler {
			plain := identitytest.NewPlainIssuer(t)
			plain.Publish(i.Key("ec-1"))
			return from(i, good(i), func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, plain.URL()+"/keys", http.StatusFound)
			})
		},
		"discovery of another issuer": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, func() any {
				return map[string]string{"issuer": "https://other.test", "jwks_uri": i.URL() + "/elsewhere"}
			}, nil404)
		},
		"discovery names keys on http": func(t *testing.T, i *identitytest.Issuer) http.Handler {
			plain := identitytest.NewPlainIssuer(t)
			plain.Publish(i.Key("ec-1"))
			return from(i, func() any { return map[string]string{"issuer": i.URL(), "jwks_uri": plain.URL() + "/keys"} }, nil404)
		},
		"discovery names no keys": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, func() any { return map[string]string{"issuer": i.URL()} }, nil404)
		},
		"discovery names a file": func(_ *testing.T, i *identitytest.Issuer) http.Handler {
			return from(i, func() any { return map[string]string{"issuer": i.URL(), "jwks_uri": "file:///etc/keys"} }, nil404)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuer := identitytest.NewIssuer(t)
			trouble := answer(t, issuer)
			issuer.Answer(trouble)
			v := open(t, usertoken.Config{OIDC: []usertoken.OIDC{quick(issuer)}})
			token := issuer.Token(t, issuer.Claims(audience))
			refuse(t, v, token, identity.ErrKeysUnavailable)
			issuer.Answer(nil)
			eventually(t, v, token, nil)
			// Trouble later: the keys are good for a while, and then are not.
			issuer.Answer(trouble)
			accept(t, v, token)
			eventually(t, v, token, identity.ErrKeysUnavailable)
			v.Forget()
			refuse(t, v, token, identity.ErrKeysUnavailable)
			issuer.Answer(nil)
			eventually(t, v, token, nil)
		})
	}
}

func good(i *identitytest.Issuer) func() any {
	return func() any { return map[string]string{"issuer": i.URL(), "jwks_uri": i.URL() + "/keys"} }
}

func nil404(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }
