package usertoken

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

const (
	// maxDocument is how long a key set or discovery document may be, in bytes.
	maxDocument = 512 << 10
	// fetchTimeout bounds one attempt to get the keys, discovery included.
	fetchTimeout = 10 * time.Second
)

// fetch gets an issuer's key set and says where it is, blocking until ctx is done
// at the latest. Its errors say where themselves.
type fetch func(ctx context.Context) (doc []byte, from string, err error)

// fetchFile reads the key set from a file.
func fetchFile(path string) fetch {
	return func(context.Context) ([]byte, string, error) {
		// Opening what is no file, such as a pipe, could block for ever.
		if info, err := os.Stat(path); err != nil {
			return nil, "", err
		} else if !info.Mode().IsRegular() {
			return nil, "", fmt.Errorf("%s is not a file", path)
		}
		f, err := os.Open(path) //nolint:gosec // the operator names it
		if err != nil {
			return nil, "", err
		}
		defer f.Close() //nolint:errcheck // only read
		return readAll(bound(f), path)
	}
}

// fetchWeb gets the key set from the issuer's web server; where it is there is
// asked anew each time, unless the configuration says.
func fetchWeb(cfg OIDC) fetch {
	return func(ctx context.Context) ([]byte, string, error) {
		client, err := newClient(cfg.CAFile)
		if err != nil {
			return nil, "", err
		}
		jwksURL := cfg.JWKSURL
		if jwksURL == "" {
			if jwksURL, err = discover(ctx, client, cfg.Issuer); err != nil {
				return nil, "", fmt.Errorf("discovery: %w", err)
			}
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, jwksURL, nil)
		if err != nil {
			return nil, "", err
		}
		req.Header.Set("Accept", "application/jwk-set+json, application/json")
		req.Header.Set("Cache-Control", "no-cache")
		resp, err := client.Do(req)
		if err != nil {
			return nil, "", err
		}
		defer resp.Body.Close() //nolint:errcheck // only read
		if resp.StatusCode != http.StatusOK {
			return nil, "", fmt.Errorf("get %s: %s", jwksURL, resp.Status)
		}
		return readAll(resp.Body, clip(jwksURL))
	}
}

func readAll(r io.Reader, from string) ([]byte, string, error) {
	doc, err := io.ReadAll(r)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", from, err)
	}
	return doc, from, nil
}

// discover asks the issuer where its keys are. The issuer that the document names
// must be this one.
func discover(ctx context.Context, client *http.Client, issuer string) (string, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), issuer)
	if err != nil {
		return "", err
	}
	var doc struct {
		JWKSURI string `json:"jwks_uri"`
	}
	if err := provider.Claims(&doc); err != nil {
		return "", err
	}
	if err := checkURL(doc.JWKSURI); err != nil {
		return "", fmt.Errorf("jwks_uri %s: %w", clip(doc.JWKSURI), err)
	}
	if strings.HasPrefix(issuer, "https:") && !strings.HasPrefix(doc.JWKSURI, "https:") {
		return "", fmt.Errorf("jwks_uri %s: not https, as the issuer is", clip(doc.JWKSURI))
	}
	return doc.JWKSURI, nil
}

// newClient returns a client for one fetch, by the proxy of the environment
// (HTTPS_PROXY) if there is one. It follows no redirect: where keys
// come from is what the configuration or the issuer's own document says.
func newClient(caFile string) (*http.Client, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pool, err := readCAs(caFile)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = pool
	}
	return &http.Client{
		Transport: &transport{
			secure: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				TLSClientConfig:        tlsConfig,
				DisableKeepAlives:      true,
				MaxResponseHeaderBytes: 64 << 10,
			},
			local: &http.Transport{
				DialContext:            (&net.Dialer{Control: onlyLoopback}).DialContext,
				DisableKeepAlives:      true,
				MaxResponseHeaderBytes: 64 << 10,
			},
		},
		CheckRedirect: func(req *http.Request, _ []*http.Request) error {
			return fmt.Errorf("redirected to %s, which is not followed", clip(req.URL.Redacted()))
		},
	}, nil
}

// transport sends https anywhere and http to this machine only, and bounds what
// comes back.
type transport struct{ secure, local *http.Transport }

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	via := t.secure
	if req.URL.Scheme != "https" {
		via = t.local
	}
	resp, err := via.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{bound(resp.Body), resp.Body}
	return resp, nil
}

// onlyLoopback holds names such as localhost to what they stand for.
func onlyLoopback(_, address string, _ syscall.RawConn) error {
	addr, err := netip.ParseAddrPort(address)
	if err != nil || !addr.Addr().IsLoopback() {
		return fmt.Errorf("%s is not a loopback address: http is not taken from elsewhere", address)
	}
	return nil
}

// bound reads maxDocument bytes at most; what is longer is an error, not cut short.
func bound(r io.Reader) io.Reader {
	return io.MultiReader(io.LimitReader(r, maxDocument), &tooLong{r})
}

type tooLong struct{ rest io.Reader }

func (t *tooLong) Read([]byte) (int, error) {
	n, err := io.ReadFull(t.rest, make([]byte, 1))
	if n > 0 {
		return 0, fmt.Errorf("more than %d bytes", maxDocument)
	}
	return 0, err
}

// brief is an error's text, short and printable: what an issuer answers may be in
// it.
func brief(err error) error {
	const most = 300
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, err.Error())
	if len(text) > most {
		text = text[:most] + "..."
	}
	return errors.New(text)
}
