package audit

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// KeyError says that the key of sealed records is not there: the records may be
// as they were written.
type KeyError struct {
	// ID names the data key.
	ID string
	// Keeper is what wrapped it; empty if the log was not seen to say.
	Keeper string
	// Err is why the keeper given does not open it; nil if Keeper is empty.
	Err error
}

func (e *KeyError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("records are sealed with data key %s, and no record before them has that key: read the segment from its beginning", e.ID)
	}
	return fmt.Sprintf("data key %s was wrapped by %.256q, and the key given does not open it: %v\n  give the key that audit.encryption named when the records were written",
		e.ID, e.Keeper, e.Err)
}

// Unwrap returns Err.
func (e *KeyError) Unwrap() error { return e.Err }

// SealError says that a sealed record is not as its server wrote it.
type SealError struct {
	// Sequence of the record.
	Sequence uint64
	// Reason says what does not fit.
	Reason string
}

func (e *SealError) Error() string {
	return fmt.Sprintf("sealed record %d was tampered with: %s", e.Sequence, e.Reason)
}

// Unsealer opens sealed records. It is safe for concurrent use.
type Unsealer struct {
	keeper Keeper

	learning sync.Mutex   // held while the keeper is asked, so that it is asked once
	mu       sync.RWMutex // guards keys and failed
	keys     map[[keyIDSize]byte]dataKey
	failed   map[[keyIDSize]byte]*KeyError
}

// NewUnsealer returns an Unsealer that knows no key yet. The keeper must not be
// nil.
func NewUnsealer(keeper Keeper) *Unsealer {
	return &Unsealer{keeper: keeper, keys: make(map[[keyIDSize]byte]dataKey), failed: make(map[[keyIDSize]byte]*KeyError)}
}

// Learn has the keeper open a data key, once: further calls for the key return
// what came of it. It may block until ctx ends. The error is a *KeyError.
func (u *Unsealer) Learn(ctx context.Context, w *auditv1.WrappedKey) error {
	u.learning.Lock()
	defer u.learning.Unlock()
	b, err := hex.DecodeString(w.GetId())
	if err != nil || len(b) != keyIDSize || hex.EncodeToString(b) != w.GetId() {
		return &KeyError{ID: fmt.Sprintf("%.32q", w.GetId()), Keeper: w.GetKeeper(), Err: fmt.Errorf("its id is not %d hexadecimal digits", 2*keyIDSize)}
	}
	id := [keyIDSize]byte(b)
	switch _, missing := u.key(id); {
	case missing == nil:
		return nil
	case missing.Err != nil: // it was asked before
		return missing
	}
	key, err := u.open(ctx, id, w.GetCiphertext())
	if err == nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.keys[id] = key
		return nil
	}
	failure := &KeyError{ID: w.GetId(), Keeper: w.GetKeeper(), Err: err}
	if ctx.Err() == nil { // else it says nothing about the key
		u.mu.Lock()
		defer u.mu.Unlock()
		u.failed[id] = failure
	}
	return failure
}

// open has the keeper open a data key. What it opened is compared with the id, so
// that the log cannot give one key for another.
func (u *Unsealer) open(ctx context.Context, id [keyIDSize]byte, wrapped []byte) (dataKey, error) {
	if len(wrapped) == 0 || len(wrapped) > maxWrapped {
		return dataKey{}, fmt.Errorf("it has %d bytes wrapped, not 1 to %d", len(wrapped), maxWrapped)
	}
	raw, err := u.keeper.Decrypt(ctx, wrapped)
	if err != nil {
		return dataKey{}, err
	}
	defer clear(raw)
	if len(raw) != chacha20poly1305.KeySize {
		return dataKey{}, fmt.Errorf("what was wrapped has %d bytes, not %d", len(raw), chacha20poly1305.KeySize)
	}
	key, err := newDataKey(raw)
	if err == nil && key.id != id {
		err = fmt.Errorf("what was wrapped is key %s", key.name())
	}
	return key, err
}

// key is the key of that id, or why there is none.
func (u *Unsealer) key(id [keyIDSize]byte) (dataKey, *KeyError) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if key, ok := u.keys[id]; ok {
		return key, nil
	}
	if failure, ok := u.failed[id]; ok {
		return dataKey{}, failure
	}
	return dataKey{}, &KeyError{ID: hex.EncodeToString(id[:])}
}

// Open returns the record that r was before it was sealed, with r's sequence. One
// that is not sealed it returns as it is. It does not block.
//
// A *KeyError says that its key was not learnt, a *SealError that the record is
// not as it was sealed. Where in the log a record stands is not Open's business:
// the tree has that.
func (u *Unsealer) Open(r *auditv1.Record) (*auditv1.Record, error) {
	sealed := r.GetSealed()
	if len(sealed) == 0 {
		return r, nil
	}
	tampered := func(reason string) error { return &SealError{Sequence: r.GetSequence(), Reason: reason} }
	const head = keyIDSize + chacha20poly1305.NonceSizeX
	switch {
	case logsOwn(r.GetKind()):
		return nil, tampered("records of the log's own are never sealed")
	case !onlySealed(r):
		return nil, tampered("it has fields in clear that belong into the sealed part")
	case len(sealed) < head+chacha20poly1305.Overhead || len(sealed) > MaxRecord:
		return nil, tampered(fmt.Sprintf("the sealed part has %d bytes", len(sealed)))
	}
	key, missing := u.key([keyIDSize]byte(sealed))
	if missing != nil {
		return nil, missing
	}
	plain, err := key.aead.Open(nil, sealed[keyIDSize:head], sealed[head:], key.bind(nil, r))
	if err != nil {
		return nil, tampered("authentication failed: the sealed part, its kind, time or call id was changed")
	}
	opened := new(auditv1.Record)
	if err := proto.Unmarshal(plain, opened); err != nil {
		return nil, tampered("the sealed part is no record")
	}
	switch {
	case len(opened.GetSealed()) > 0:
		return nil, tampered("the sealed part is itself sealed")
	case opened.GetKind() != r.GetKind() || opened.GetCallId() != r.GetCallId() || !proto.Equal(opened.GetTime(), r.GetTime()):
		return nil, tampered("kind, time and call id within and beside the sealed part differ")
	}
	opened.Sequence = r.GetSequence()
	return opened, nil
}

// onlySealed is whether r has no fields but those that a sealed record has.
func onlySealed(r *auditv1.Record) bool {
	only := len(r.ProtoReflect().GetUnknown()) == 0
	r.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		switch field.Name() {
		case "sequence", "kind", "time", "call_id", "sealed":
		default:
			only = false
		}
		return only
	})
	return only
}

// Format writes what it is and never a key, whatever the verb.
func (u *Unsealer) Format(f fmt.State, _ rune) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	_, _ = fmt.Fprintf(f, "audit.Unsealer with %d keys", len(u.keys))
}

// LogValue is what Format writes.
func (u *Unsealer) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(u)) }
