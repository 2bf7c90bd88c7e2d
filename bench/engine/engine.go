// Package engine runs ONNX models by calling ONNX Runtime directly, as one writes
// it who needs nothing else: it is what batches are compared with, and what the
// bare server calls. Its settings are those that sallyport has unless it is told
// otherwise.
package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Open loads ONNX Runtime; close unloads it, once no model is open.
func Open(library string) (closeLibrary func() error, err error) {
	ort.SetSharedLibraryPath(library)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return ort.DestroyEnvironment, nil
}

// LibraryVersion is the version of a library that is not open.
func LibraryVersion(library string) (string, error) {
	closeLibrary, err := Open(library)
	if err != nil {
		return "", err
	}
	version := ort.GetVersion()
	return version, closeLibrary()
}

// Model is a loaded model. It is safe for concurrent use.
type Model struct {
	// Digest is that of the artefact, as a response has it.
	Digest string

	session         *ort.DynamicAdvancedSession
	inputs, outputs []string
}

// Load loads the model of a file, with one thread a run. What it puts out that
// is not a tensor is left out.
func Load(path string) (*Model, error) {
	artefact, err := os.ReadFile(path) //nolint:gosec // who measures names it
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(artefact)
	m := &Model{Digest: "sha256:" + hex.EncodeToString(sum[:])}
	inputs, outputs, err := ort.GetInputOutputInfoWithONNXData(artefact)
	if err != nil {
		return nil, fmt.Errorf("engine: %s: %w", path, err)
	}
	for _, in := range inputs {
		m.inputs = append(m.inputs, in.Name)
	}
	for _, out := range outputs {
		if out.OrtValueType == ort.ONNXTypeTensor {
			m.outputs = append(m.outputs, out.Name)
		}
	}
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer func() { _ = options.Destroy() }()
	if err := errors.Join(options.SetIntraOpNumThreads(1), options.SetInterOpNumThreads(1)); err != nil {
		return nil, err
	}
	m.session, err = ort.NewDynamicAdvancedSessionWithONNXData(artefact, m.inputs, m.outputs, options)
	if err != nil {
		return nil, fmt.Errorf("engine: %s: %w", path, err)
	}
	return m, nil
}

// Close unloads the model.
func (m *Model) Close() error { return m.session.Destroy() }

// ErrInput is that the inputs do not fit the model.
var ErrInput = errors.New("the inputs do not fit the model")

// Inputs are the inputs of a request, ready to run.
type Inputs struct {
	values []ort.Value
	pin    runtime.Pinner
}

// Prepare makes inputs of a request's tensors, whose raw elements are used where
// they are. Close them.
func (m *Model) Prepare(tensors map[string]*inferencev1.Tensor) (_ *Inputs, err error) {
	in := &Inputs{values: make([]ort.Value, 0, len(m.inputs))}
	defer func() {
		if err != nil {
			in.Close()
		}
	}()
	for _, name := range m.inputs {
		v, err := in.value(tensors[name])
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrInput, name, err)
		}
		in.values = append(in.values, v)
	}
	return in, nil
}

func (in *Inputs) value(t *inferencev1.Tensor) (ort.Value, error) {
	shape := ort.Shape(t.GetShape())
	if t.GetDataType() == inferencev1.DataType_DATA_TYPE_STRING {
		v, err := ort.NewStringTensor(shape)
		if err != nil {
			return nil, err
		}
		return v, v.SetContents(t.GetStringValues())
	}
	data := t.GetRaw()
	if t.GetDataType() != inferencev1.DataType_DATA_TYPE_FLOAT32 || len(data) == 0 || int64(len(data)) != 4*shape.FlattenedSize() {
		return nil, errors.New("not raw FLOAT32 elements of its shape")
	}
	if uintptr(unsafe.Pointer(&data[0]))%4 != 0 { //nolint:gosec // only the address is used
		floats := make([]float32, len(data)/4)
		aligned := unsafe.Slice((*byte)(unsafe.Pointer(&floats[0])), len(data)) //nolint:gosec // as many bytes
		copy(aligned, data)
		data = aligned
	}
	in.pin.Pin(&data[0])
	return ort.NewCustomDataTensor(shape, data, ort.TensorElementDataTypeFloat)
}

// Close frees the inputs.
func (in *Inputs) Close() {
	for _, v := range in.values {
		_ = v.Destroy() // it frees, and has nothing to report
	}
	in.pin.Unpin()
}

// Run runs the model and returns its outputs as a response holds them.
func (m *Model) Run(in *Inputs) (map[string]*inferencev1.Tensor, error) {
	values := make([]ort.Value, len(m.outputs))
	if err := m.session.Run(in.values, values); err != nil {
		return nil, err
	}
	outputs := make(map[string]*inferencev1.Tensor, len(values))
	for i, v := range values {
		t := &inferencev1.Tensor{Shape: v.GetShape()}
		switch v := v.(type) {
		case *ort.Tensor[float32]:
			t.DataType, t.Raw = inferencev1.DataType_DATA_TYPE_FLOAT32, bytesOf(v.GetData())
		case *ort.Tensor[int64]:
			t.DataType, t.Raw = inferencev1.DataType_DATA_TYPE_INT64, bytesOf(v.GetData())
		case *ort.StringTensor:
			contents, err := v.GetContents()
			if err != nil {
				return nil, err
			}
			t.DataType, t.StringValues = inferencev1.DataType_DATA_TYPE_STRING, contents
		default:
			return nil, fmt.Errorf("output %q is a %T", m.outputs[i], v)
		}
		_ = v.Destroy() // the elements were copied out of native memory
		outputs[m.outputs[i]] = t
	}
	return outputs, nil
}

// bytesOf is the memory of s, little-endian as tensors are.
func bytesOf[T int64 | float32](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0]))) //nolint:gosec // s is all there is
}
