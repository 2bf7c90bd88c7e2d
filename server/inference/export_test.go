package inference

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// What the tests of tensors and of requests call.
var (
	DecodeTensor = decodeTensor
	EncodeTensor = encodeTensor
)

// DecodeRequest decodes a request that comes in pieces of at most so many bytes.
func DecodeRequest(data []byte, m proto.Message, piece int) bool {
	var pieces mem.BufferSlice
	for len(data) > 0 {
		n := min(piece, len(data))
		pieces = append(pieces, mem.SliceBuffer(data[:n]))
		data = data[n:]
	}
	return decodeRequest(pieces, m)
}
