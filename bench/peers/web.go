package peers

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/process"
	"github.com/sallyport/sallyport/bench/target"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// posted asks by JSON over HTTP/1.1, a connection for each call that is open.
type posted struct {
	clients *clients
	url     string
	key     string
	body    []byte
}

// clients are one for each caller, with a connection of its own. One for all
// would now and then open a connection and then not need it, since another came
// free: gunicorn keeps a thread waiting on each such, until none is left.
type clients struct {
	tls  *tls.Config
	each []*http.Client
}

func (c *clients) of(i int) *http.Client {
	for len(c.each) <= i {
		c.each = append(c.each, &http.Client{Transport: &http.Transport{TLSClientConfig: c.tls.Clone(), DisableCompression: true}})
	}
	return c.each[i]
}

func (c *clients) close() error {
	for _, one := range c.each {
		one.CloseIdleConnections()
	}
	return nil
}

var _ asked = (*posted)(nil)

// post asks once; read is given the body of an answer.
func (p *posted) post(ctx context.Context, client *http.Client, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // as gRPC calls have it
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(p.body))
	if err != nil {
		return err
	}
	r.Header.Set(keyHeader, p.key)
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10)) // what there is of it
		return fmt.Errorf("%w: %s", statusError(answer.StatusCode), text)
	}
	return read(answer.Body)
}

// statusError is the status of an answer that is not OK.
type statusError int

func (s statusError) Error() string { return "answered with " + http.StatusText(int(s)) }

func (p *posted) Caller(i int) load.Caller {
	client := p.clients.of(i)
	return load.CallerFunc(func(ctx context.Context) error {
		return p.post(ctx, client, func(body io.Reader) error {
			n, err := io.Copy(io.Discard, body)
			if err == nil && n == 0 {
				return errors.New("an empty answer")
			}
			return err
		})
	})
}

func (p *posted) Answer(ctx context.Context) (a *Answer, err error) {
	err = p.post(ctx, p.clients.of(0), func(body io.Reader) error {
		text, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		a, err = ofJSON(text)
		return err
	})
	return a, err
}

// jsonBody is {"features": [[...], ...]} with as many digits as a float32 needs.
func jsonBody(t *inferencev1.Tensor) []byte {
	body := []byte(`{"features":[`)
	columns := int(t.GetShape()[1])
	raw := t.GetRaw()
	for i := 0; i < len(raw)/4; i++ {
		switch {
		case i == 0:
			body = append(body, '[')
		case i%columns == 0:
			body = append(body, "],["...)
		default:
			body = append(body, ',')
		}
		v := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		body = strconv.AppendFloat(body, float64(v), 'g', -1, 32)
	}
	return append(body, "]]}"...)
}

// webPeer has p ask by JSON at an address.
func webPeer(p *peer, site *target.Site, port int) {
	source := site.Source(0)
	// The servers have an SVID like the others, and their callers verify it.
	all := &clients{tls: tlsconfig.TLSClientConfig(source, tlsconfig.AuthorizeID(target.Server))}
	p.end = append(p.end, all.close)
	p.ask = func(q question) (asked, error) {
		return &posted{
			clients: all, key: keys[q.who], body: jsonBody(q.features),
			url: fmt.Sprintf("https://127.0.0.1:%d/v1/models/%s:predict", port, q.model),
		}, nil
	}
}

// startFastAPI starts FastAPI in uvicorn, with uvloop and httptools.
func startFastAPI(ctx context.Context, cfg Config, site *target.Site, files, config string) (*peer, error) {
	return startWeb(ctx, cfg, site, nameFastAPI, config, func(port int, python string) process.Config {
		return process.Config{
			Path: filepath.Join(python, "bin", "uvicorn"), Dir: cfg.source("fastapi"),
			Args: []string{
				"app:app", "--host", "127.0.0.1", "--port", strconv.Itoa(port), "--workers", strconv.Itoa(cfg.Cores),
				"--loop", "uvloop", "--http", "httptools", "--no-access-log", "--timeout-keep-alive", "300",
				"--ssl-certfile", filepath.Join(files, "svid.pem"), "--ssl-keyfile", filepath.Join(files, "key.pem"),
			},
			Ready: times(`Application startup complete`, cfg.Cores),
		}
	})
}

// startFlask starts Flask in gunicorn, with threads, as its documentation advises
// for connections that are kept.
func startFlask(ctx context.Context, cfg Config, site *target.Site, files, config string) (*peer, error) {
	return startWeb(ctx, cfg, site, nameFlask, config, func(port int, python string) process.Config {
		return process.Config{
			Path: filepath.Join(python, "bin", "gunicorn"), Dir: cfg.source("flask"),
			Args: []string{
				"app:app", "--config", "gunicorn.conf.py", "--bind", fmt.Sprintf("127.0.0.1:%d", port),
				"--workers", strconv.Itoa(cfg.Cores),
				"--certfile", filepath.Join(files, "svid.pem"), "--keyfile", filepath.Join(files, "key.pem"),
			},
			Ready: times(`worker is ready`, cfg.Cores),
		}
	})
}

func startWeb(ctx context.Context, cfg Config, site *target.Site, name, config string, server func(port int, python string) process.Config) (*peer, error) {
	p := &peer{name: name}
	python, err := cfg.environment(name)
	if err != nil {
		return p, err
	}
	ports, err := freePorts(ctx, 1)
	if err != nil {
		return p, err
	}
	set := server(ports[0], python)
	set.Env = []string{"PEER_CONFIG=" + config, "PYTHONPATH=" + cfg.source("python"), "PYTHONDONTWRITEBYTECODE=1"}
	if err := p.start(ctx, set); err != nil {
		return p, err
	}
	webPeer(p, site, ports[0])
	return p, nil
}

// times matches what is written n times: once by each worker.
func times(text string, n int) *regexp.Regexp {
	return regexp.MustCompile(`(?s)` + strings.Repeat(regexp.QuoteMeta(text)+`.*`, n))
}
