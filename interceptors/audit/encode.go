package audit

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protopath"
	"google.golang.org/protobuf/reflect/protorange"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// encode encodes the record, still without its sequence, in the caller's
// goroutine, so that the committer has only to copy and hash.
func (l *Log) encode(r *auditv1.Record) (*entry, error) {
	e := l.entries.Get().(*entry)
	e.waits, e.queued = false, false
	marshal := marshalAppend
	if l.cfg.Sealer != nil && !logsOwn(r.GetKind()) {
		marshal = l.cfg.Sealer.Seal
	}
	b, err := marshal(e.record[:0], r)
	if err != nil {
		// Whoever sends bytes that are no text must be recorded all the same.
		if b, err = marshal(nil, legible(r)); err != nil {
			return nil, fmt.Errorf("encode audit record: %w", err)
		}
	}
	e.record = b
	if len(b)+sequenceSize > MaxRecord {
		return nil, fmt.Errorf("encode audit record: %d bytes are more than a record may have, %d", len(b), MaxRecord-sequenceSize)
	}
	return e, nil
}

// release keeps an entry for reuse, unless it would keep much memory alive.
func (l *Log) release(e *entry) {
	if cap(e.record) <= 16<<10 {
		l.entries.Put(e)
	}
}

// legible returns a copy of r in which what is not UTF-8 is replaced.
func legible(r *auditv1.Record) *auditv1.Record {
	r = proto.CloneOf(r)
	// The error is of the function below, which returns none.
	_ = protorange.Range(r.ProtoReflect(), func(p protopath.Values) error {
		last, parent := p.Index(-1), p.Index(-2)
		text, ok := last.Value.Interface().(string)
		if !ok || utf8.ValidString(text) {
			return nil
		}
		value := protoreflect.ValueOfString(strings.ToValidUTF8(text, string(utf8.RuneError)))
		switch last.Step.Kind() {
		case protopath.FieldAccessStep:
			parent.Value.Message().Set(last.Step.FieldDescriptor(), value)
		case protopath.ListIndexStep:
			parent.Value.List().Set(last.Step.ListIndex(), value)
		default: // A record has no other text but map keys, which the server makes.
		}
		return nil
	})
	return r
}

// keyEntry is the record with which each segment of sealed records begins.
func (l *Log) keyEntry() *entry {
	e, err := l.encode(&auditv1.Record{
		Kind: auditv1.Kind_KIND_KEY, Time: timestamppb.New(l.cfg.now()), WrappedKey: l.cfg.Sealer.WrappedKey(),
	})
	if err != nil {
		panic(err) // NewSealer bounds what it wraps
	}
	e.durability = Async
	return e
}
