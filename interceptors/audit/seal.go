package audit

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// Keeper has a key-encryption key: it wraps data keys and opens them again. It
// must authenticate what it opens. *secrets.Keeper of gocloud.dev is one.
type Keeper interface {
	// Encrypt wraps. It may block until ctx ends.
	Encrypt(ctx context.Context, plaintext []byte) ([]byte, error)
	// Decrypt opens what Encrypt made, and fails for everything else. It may block
	// until ctx ends.
	Decrypt(ctx context.Context, ciphertext []byte) ([]byte, error)
}

// sealedField is the number of Record.sealed.
var sealedField = new(auditv1.Record).ProtoReflect().Descriptor().Fields().ByName("sealed").Number()

const (
	keyIDSize = 8

	// maxWrapped bounds a wrapped key: those of key management services have a few
	// hundred bytes.
	maxWrapped = 16 << 10
	// maxKept bounds the scratch that is kept for the next record.
	maxKept = 16 << 10
)

// Sealer encrypts records with a data key that it made and that only its keeper
// opens again. The data key is in no file: it ends with the process. Safe for
// concurrent use.
type Sealer struct {
	key     dataKey
	wrapped *auditv1.WrappedKey
	scratch sync.Pool
}

// NewSealer makes a data key and has the keeper wrap it, which is all that the
// keeper is asked: it takes no right to decrypt. Name says in the log which keeper
// it was, for whoever will need it; it must hold no secret. NewSealer may block
// until ctx ends.
func NewSealer(ctx context.Context, keeper Keeper, name string) (*Sealer, error) {
	if keeper == nil || name == "" {
		return nil, errors.New("seal records: a keeper and its name are required")
	}
	raw := make([]byte, chacha20poly1305.KeySize)
	defer clear(raw)
	_, _ = rand.Read(raw) // ends the process rather than fail
	wrapped, err := keeper.Encrypt(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("have %s wrap a data key: %w", name, err)
	}
	switch {
	case bytes.Contains(wrapped, raw):
		return nil, fmt.Errorf("have %s wrap a data key: it came back as it was", name)
	case len(wrapped) <= len(raw) || len(wrapped) > maxWrapped:
		return nil, fmt.Errorf("have %s wrap a data key: it came back with %d bytes, not %d to %d", name, len(wrapped), len(raw)+1, maxWrapped)
	}
	key, err := newDataKey(raw)
	if err != nil {
		return nil, err
	}
	s := &Sealer{key: key, wrapped: &auditv1.WrappedKey{Id: key.name(), Keeper: name, Ciphertext: wrapped}}
	s.scratch.New = func() any { return new(sealScratch) }
	return s, nil
}

// WrappedKey is the data key in the form that only the keeper opens. Each segment
// must have it before its first sealed record. It is a copy.
func (s *Sealer) WrappedKey() *auditv1.WrappedKey { return proto.CloneOf(s.wrapped) }

// sealScratch is what sealing one record needs.
type sealScratch struct {
	plain, bound []byte
	nonce        [chacha20poly1305.NonceSizeX]byte
	clear        auditv1.Record
}

// Seal appends to dst an encoded Record that has r's kind, time and call id, and
// all of r sealed, some 100 bytes more than r's encoding. What is no UTF-8 in r is
// replaced. The record stays the caller's.
//
// Records of the log's own are never sealed, because the log is verified and its
// keys are found by them; for those, and for one that is sealed already, Seal
// returns an error.
func (s *Sealer) Seal(dst []byte, r *auditv1.Record) ([]byte, error) {
	if logsOwn(r.GetKind()) || len(r.GetSealed()) > 0 {
		return dst, fmt.Errorf("seal audit record: one of %v is not sealed, or it is already", r.GetKind())
	}
	sc := s.scratch.Get().(*sealScratch)
	defer s.release(sc)
	plain, err := marshalAppend(sc.plain[:0], r)
	if err != nil {
		r = legible(r)
		if plain, err = marshalAppend(sc.plain[:0], r); err != nil {
			return dst, fmt.Errorf("seal audit record: %w", err)
		}
	}
	sc.plain = plain
	sc.clear.Kind, sc.clear.Time, sc.clear.CallId = r.GetKind(), r.GetTime(), r.GetCallId()
	out, err := marshalAppend(dst, &sc.clear)
	if err != nil {
		return dst, fmt.Errorf("seal audit record: %w", err)
	}
	sc.bound = s.key.bind(sc.bound[:0], &sc.clear)
	_, _ = rand.Read(sc.nonce[:])
	out = protowire.AppendTag(out, sealedField, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(keyIDSize+len(sc.nonce)+len(plain)+chacha20poly1305.Overhead))
	out = append(append(out, s.key.id[:]...), sc.nonce[:]...)
	return s.key.aead.Seal(out, sc.nonce[:], plain, sc.bound), nil
}

// release keeps scratch for reuse, unless it would keep much memory alive, and
// nothing of the record in it.
func (s *Sealer) release(sc *sealScratch) {
	clear(sc.plain)
	sc.clear.Time, sc.clear.CallId = nil, ""
	if cap(sc.plain)+cap(sc.bound) <= maxKept {
		s.scratch.Put(sc)
	}
}

// Format writes which key it is and never the key, whatever the verb.
func (s *Sealer) Format(f fmt.State, _ rune) {
	_, _ = f.Write([]byte("audit.Sealer of key " + s.key.name()))
}

// LogValue is what Format writes.
func (s *Sealer) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// dataKey is a key of records.
type dataKey struct {
	id   [keyIDSize]byte
	aead cipher.AEAD
}

func newDataKey(raw []byte) (dataKey, error) {
	aead, err := chacha20poly1305.NewX(raw)
	if err != nil {
		return dataKey{}, fmt.Errorf("data key: %w", err)
	}
	sum := sha256.Sum256(raw)
	return dataKey{[keyIDSize]byte(sum[:]), aead}, nil
}

// name is the id as WrappedKey has it.
func (k dataKey) name() string { return hex.EncodeToString(k.id[:]) }

// bind appends what a sealed part is bound to: its key and the fields beside it.
// It is made from values and not from their encoding, of which there are several.
func (k dataKey) bind(b []byte, r *auditv1.Record) []byte {
	b = append(b, "sallyport sealed audit record, format 1\x00"...)
	b = append(b, k.id[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(r.GetKind())) //nolint:gosec // its bits are what counts
	if t := r.GetTime(); t != nil {
		b = append(b, 1)
		b = binary.BigEndian.AppendUint64(b, uint64(t.GetSeconds())) //nolint:gosec // its bits are what counts
		b = binary.BigEndian.AppendUint32(b, uint32(t.GetNanos()))   //nolint:gosec // its bits are what counts
	} else {
		b = append(b, 0)
	}
	return append(b, r.GetCallId()...) // last, so that it needs no length
}

// logsOwn is whether the log itself writes records of the kind.
func logsOwn(k auditv1.Kind) bool {
	return k == auditv1.Kind_KIND_KEY || k == auditv1.Kind_KIND_RETENTION
}
