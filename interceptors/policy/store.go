package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport/sallyport/proto/configfile"
)

// maxFileBytes is the largest policy file that is read.
const maxFileBytes = 32 << 20

// ReadFile reads a policy file as a Store does: a regular one, of a size that
// is read.
func ReadFile(path string) ([]byte, error) { return configfile.Read(path, maxFileBytes) }

// Event tells of a reload that changed something, was refused, or found the
// policy in force again after one that was.
type Event struct {
	// Generation is that of the policy in force after the reload.
	Generation uint64
	// Digest is the SHA-256 of the bytes that were read, lower-case hexadecimal;
	// empty if none could be.
	Digest string
	// Err is why the file was refused; nil if it is in force.
	Err error
}

// Store keeps the policy of one file in force. A file that cannot be read,
// parsed or compiled, or that is empty, is refused, and what was in force stays.
type Store struct {
	path     string
	log      *slog.Logger
	onReload func(Event)
	fits     []func(*Index) error
	refusing string        // what the log says of a file that is refused
	taking   string        // and of one that is taken
	settle   time.Duration // how long a file must hold still before Run takes it
	poll     time.Duration // how often Run looks without being told

	current atomic.Pointer[Index]
	failure atomic.Pointer[error]

	// mu is held from reading the file until what was read is in force: an older
	// reading must not follow a newer one. It also guards what follows.
	mu      sync.Mutex
	refused string // state of the reading that was refused last
}

// NewStore loads the policy at path; the error is that of a bad file. onReload,
// which may be nil, is told of every later reload that is an Event, one call at
// a time; it must not call Reload. A policy that one of fits returns an error for is
// refused: it is good by itself and does not fit the server.
func NewStore(path string, log *slog.Logger, onReload func(Event), fits ...func(*Index) error) (*Store, error) {
	if log == nil {
		return nil, errors.New("policy: no logger")
	}
	if onReload == nil {
		onReload = func(Event) {}
	}
	s := &Store{
		path: path, log: log, onReload: onReload, fits: fits, settle: 100 * time.Millisecond, poll: 10 * time.Second,
		refusing: "policy refused; the one before stays in force", taking: "policy in force",
	}
	r := s.read()
	ix, err := s.compile(r)
	if err != nil {
		return nil, err
	}
	ix.generation = 1
	s.current.Store(ix)
	return s, nil
}

// NewShadowStore is NewStore for a policy that is not enforced: the log says so.
func NewShadowStore(path string, log *slog.Logger, onReload func(Event)) (*Store, error) {
	s, err := NewStore(path, log, onReload)
	if err != nil {
		return nil, err
	}
	s.refusing, s.taking = "shadow policy refused; decisions are compared with the one before", "shadow policy, not enforced: decisions are compared with it"
	return s, nil
}

// Load is the policy in force, never nil. It does not block. Whoever decides
// more than once on one call should load once.
func (s *Store) Load() *Index { return s.current.Load() }

// Generation counts the policies that were put in force, from 1.
func (s *Store) Generation() uint64 { return s.Load().Generation() }

// LastError is why the file as it is now is not in force; nil if it is.
func (s *Store) LastError() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Reload reads the file now, as on SIGHUP, and puts it in force if it is good
// and has changed. It blocks for as long as that takes. A failure is also
// logged and told to onReload.
func (s *Store) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apply(context.Background(), s.read())
}

// reading is what was found at the path at one time.
type reading struct {
	data   []byte
	digest string
	err    error
}

func (s *Store) read() reading {
	data, err := ReadFile(s.path)
	if err != nil {
		return reading{err: err}
	}
	sum := sha256.Sum256(data)
	return reading{data: data, digest: hex.EncodeToString(sum[:])}
}

// state tells readings apart: by content, or by what kept it from being read.
func (r reading) state() string {
	if r.err != nil {
		return r.err.Error()
	}
	return r.digest
}

func (r reading) compile(name string) (*Index, error) {
	if r.err != nil {
		return nil, r.err
	}
	p, err := Parse(r.data, name)
	if err != nil {
		return nil, err
	}
	ix, err := Compile(p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	ix.digest = r.digest
	return ix, nil
}

// compile also tells whether the policy fits the server.
func (s *Store) compile(r reading) (*Index, error) {
	ix, err := r.compile(s.path)
	if err != nil {
		return nil, err
	}
	for _, fit := range s.fits {
		if err := fit(ix); err != nil {
			return nil, fmt.Errorf("%s: %w", s.path, err)
		}
	}
	return ix, nil
}

// apply puts a reading in force, or refuses it and tells so. s.mu is held.
func (s *Store) apply(ctx context.Context, r reading) error {
	before := s.Load()
	if r.err == nil && r.digest == before.digest {
		if s.failure.Swap(nil) != nil {
			s.log.InfoContext(ctx, "policy file is again the one in force", slog.String("file", s.path))
			s.onReload(Event{Generation: before.generation, Digest: before.digest})
		}
		s.refused = ""
		return nil
	}
	ix, err := s.compile(r)
	if err != nil {
		s.failure.Store(&err)
		s.refused = r.state()
		s.log.ErrorContext(ctx, s.refusing,
			slog.String("file", s.path), slog.Uint64("generation", before.generation), slog.Any("error", err))
		s.onReload(Event{Generation: before.generation, Digest: r.digest, Err: err})
		return err
	}
	ix.generation = before.generation + 1
	s.current.Store(ix)
	s.failure.Store(nil)
	s.refused = ""
	s.log.InfoContext(ctx, s.taking,
		slog.String("file", s.path), slog.Uint64("generation", ix.generation), slog.String("digest", ix.digest))
	s.onReload(Event{Generation: ix.generation, Digest: ix.digest})
	return nil
}

// known tells whether nothing is left to do about a reading: it is in force and
// was not followed by a refused one, or it has been refused before. s.mu is held.
func (s *Store) known(r reading) bool {
	if s.refused != "" {
		return r.state() == s.refused
	}
	return r.err == nil && r.digest == s.Load().digest
}
