package inference

// What the tests of tensors and of requests call.
var (
	DecodeTensor = decodeTensor
	EncodeTensor = encodeTensor

	DecodeRequest = decodeRequest
)
