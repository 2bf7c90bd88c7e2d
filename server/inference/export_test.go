package inference

// What the tests of tensors call.
var (
	DecodeTensor = decodeTensor
	EncodeTensor = encodeTensor
)
