package onnx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx/graph"
)

var dtypes = map[graph.Elem]model.DType{
	graph.Bool: model.Bool,
	graph.Int8: model.Int8, graph.Int16: model.Int16, graph.Int32: model.Int32, graph.Int64: model.Int64,
	graph.Uint8: model.Uint8, graph.Uint16: model.Uint16, graph.Uint32: model.Uint32, graph.Uint64: model.Uint64,
	graph.Float16: model.Float16, graph.Float: model.Float32, graph.Double: model.Float64,
	graph.BFloat16: model.BFloat16, graph.String: model.String,
}

// elems is dtypes the other way round.
var elems = func() (elems [model.String + 1]ort.TensorElementDataType) {
	for elem, dtype := range dtypes {
		elems[dtype] = ort.TensorElementDataType(elem)
	}
	return elems
}()

// narrow tells whether the type is one of the two floats that Go has not.
func narrow(e graph.Elem) bool { return e == graph.Float16 || e == graph.BFloat16 }

// checkElements holds what makes elements safe to run on, whatever the caller
// checked.
func checkElements(t *model.Tensor) error {
	if err := t.Validate(); err != nil {
		return invalid("%s", err)
	}
	if len(t.Data)+len(t.Strings) == 0 {
		return invalid("it has no elements")
	}
	if t.DType == model.Bool {
		// In C++ a bool that is neither is undefined behaviour.
		for _, b := range t.Data {
			if b > 1 {
				return invalid("a BOOL is %d, neither 0 nor 1", b)
			}
		}
	}
	for _, s := range t.Strings {
		// C would cut it there: the model would see another string than the one
		// that was checked.
		if strings.IndexByte(s, 0) >= 0 {
			return invalid("a string has a NUL character")
		}
	}
	return nil
}

// newValue makes an input of t, which checkElements has passed. ONNX Runtime reads
// the elements where they are: pin keeps them there, and must outlive the value.
func newValue(t *model.Tensor, pin *runtime.Pinner) (ort.Value, error) {
	if t.DType == model.String {
		return newStrings(t)
	}
	if len(t.Shape) == 0 {
		return newScalar(t)
	}
	data := aligned(t.Data, t.DType.Size())
	pin.Pin(&data[0])
	return ort.NewCustomDataTensor(t.Shape, data, elems[t.DType])
}

// aligned returns data, or a copy if it does not begin where an element of size
// bytes may.
func aligned(data []byte, size int) []byte {
	if uintptr(unsafe.Pointer(&data[0]))%uintptr(size) == 0 { //nolint:gosec // only the address is used
		return data
	}
	words := make([]uint64, (len(data)+7)/8)
	to := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(data)) //nolint:gosec // words has at least as many bytes
	copy(to, data)
	return to
}

func newStrings(t *model.Tensor) (ort.Value, error) {
	v, err := ort.NewStringTensor(t.Shape)
	if err != nil {
		return nil, err
	}
	if err := v.SetContents(t.Strings); err != nil {
		return nil, errors.Join(err, v.Destroy())
	}
	return v, nil
}

func newScalar(t *model.Tensor) (ort.Value, error) {
	b := t.Data
	switch t.DType {
	case model.Bool:
		return ort.NewScalar(b[0] != 0)
	case model.Int8:
		return ort.NewScalar(int8(b[0])) //nolint:gosec // two's complement
	case model.Uint8:
		return ort.NewScalar(b[0])
	case model.Int16:
		return ort.NewScalar(int16(binary.LittleEndian.Uint16(b))) //nolint:gosec // two's complement
	case model.Uint16:
		return ort.NewScalar(binary.LittleEndian.Uint16(b))
	case model.Int32:
		return ort.NewScalar(int32(binary.LittleEndian.Uint32(b))) //nolint:gosec // two's complement
	case model.Uint32:
		return ort.NewScalar(binary.LittleEndian.Uint32(b))
	case model.Int64:
		return ort.NewScalar(int64(binary.LittleEndian.Uint64(b))) //nolint:gosec // two's complement
	case model.Uint64:
		return ort.NewScalar(binary.LittleEndian.Uint64(b))
	case model.Float32:
		return ort.NewScalar(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	case model.Float64:
		return ort.NewScalar(math.Float64frombits(binary.LittleEndian.Uint64(b)))
	case model.Float16, model.BFloat16, model.String:
	}
	return nil, invalid("a scalar %s cannot be sent", t.DType)
}

// newTensor takes the elements of an output, which onnxruntime_go has already
// copied out of native memory: destroying v leaves them alone.
func newTensor(v ort.Value) (*model.Tensor, error) {
	t := &model.Tensor{Shape: v.GetShape()}
	switch v := v.(type) {
	case *ort.Tensor[bool]:
		t.DType, t.Data = model.Bool, bytesOf(v.GetData())
	case *ort.Tensor[int8]:
		t.DType, t.Data = model.Int8, bytesOf(v.GetData())
	case *ort.Tensor[int16]:
		t.DType, t.Data = model.Int16, bytesOf(v.GetData())
	case *ort.Tensor[int32]:
		t.DType, t.Data = model.Int32, bytesOf(v.GetData())
	case *ort.Tensor[int64]:
		t.DType, t.Data = model.Int64, bytesOf(v.GetData())
	case *ort.Tensor[uint8]:
		t.DType, t.Data = model.Uint8, bytesOf(v.GetData())
	case *ort.Tensor[uint16]:
		t.DType, t.Data = model.Uint16, bytesOf(v.GetData())
	case *ort.Tensor[uint32]:
		t.DType, t.Data = model.Uint32, bytesOf(v.GetData())
	case *ort.Tensor[uint64]:
		t.DType, t.Data = model.Uint64, bytesOf(v.GetData())
	case *ort.Tensor[float32]:
		t.DType, t.Data = model.Float32, bytesOf(v.GetData())
	case *ort.Tensor[float64]:
		t.DType, t.Data = model.Float64, bytesOf(v.GetData())
	case *ort.StringTensor:
		contents, err := v.GetContents()
		if err != nil {
			return nil, err
		}
		t.DType, t.Strings = model.String, contents
	default:
		return nil, fmt.Errorf("a value of type %T", v)
	}
	return t, nil
}

// bytesOf is the memory of s. Both machines that ONNX Runtime is published for
// are little-endian, as tensors are.
func bytesOf[T ort.TensorData](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0]))) //nolint:gosec // s is all there is at that place
}
