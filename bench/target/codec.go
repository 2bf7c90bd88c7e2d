package target

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// codec sends messages that are serialized already and takes answers as they
// come: what a client does with messages is not what is measured, and on the
// processors that it shares with the server it would hide what is.
type codec struct{}

var _ encoding.CodecV2 = codec{}

// message is a serialized message in parts.
type message [][]byte

// reply is a serialized answer.
type reply struct {
	size int
	// data is the answer, if it is short.
	data []byte
}

// short is the size up to which an answer is looked into: a status is always
// shorter.
const short = 4 << 10

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(message)
	if !ok {
		return nil, fmt.Errorf("a %T is not serialized", v)
	}
	parts := make(mem.BufferSlice, len(m))
	for i, part := range m {
		parts[i] = mem.SliceBuffer(part)
	}
	return parts, nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*reply)
	if !ok {
		return fmt.Errorf("an answer cannot be a %T", v)
	}
	if r.size = data.Len(); r.size <= short {
		r.data = data.Materialize()
	}
	return nil
}

// numbered is a batch of serialized inputs with a sequence.
func numbered(inputs []byte, sequence uint64) message {
	const batch, number = 2, 1 // PredictStreamRequest.batch, StreamBatch.sequence
	size := protowire.SizeTag(number) + protowire.SizeVarint(sequence) + len(inputs)
	head := protowire.AppendTag(make([]byte, 0, 32), batch, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(size)) //nolint:gosec // a length
	head = protowire.AppendTag(head, number, protowire.VarintType)
	return message{protowire.AppendVarint(head, sequence), inputs}
}

// batchError is why a batch has no outputs.
func (r *reply) batchError() error {
	if r.size > short {
		return nil
	}
	const result, outputs, status = 2, 2, 3 // PredictStreamResponse.result, StreamResult.outputs and status
	if hasField(field(r.data, result), status) {
		var m inferencev1.PredictStreamResponse
		if err := proto.Unmarshal(r.data, &m); err != nil {
			return err
		}
		return statusError(m.GetResult().GetStatus())
	}
	if !hasField(field(r.data, result), outputs) {
		return errors.New("an answer without a result")
	}
	return nil
}

// field is the first field of a message that has the number and is bytes.
func field(m []byte, number protowire.Number) []byte {
	for len(m) > 0 {
		n, t, size := protowire.ConsumeTag(m)
		if size < 0 {
			return nil
		}
		m = m[size:]
		if n == number && t == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(m)
			return value
		}
		if size = protowire.ConsumeFieldValue(n, t, m); size < 0 {
			return nil
		}
		m = m[size:]
	}
	return nil
}

func hasField(m []byte, number protowire.Number) bool { return field(m, number) != nil }
