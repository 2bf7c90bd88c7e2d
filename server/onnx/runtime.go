// Package onnx runs ONNX models in this process with ONNX Runtime, a native
// library that is loaded when a Runtime is opened. It alone needs cgo.
package onnx

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/sallyport/sallyport/server/model"
)

// Config tells how to run models. Its zero value is usable but for Library.
type Config struct {
	// Library is the path of ONNX Runtime's library; see FindLibrary.
	Library string
	// Threads is how many threads one run may use; 0 is 1.
	Threads int
}

// Runtime is ONNX Runtime, loaded. It is safe for concurrent use.
type Runtime struct {
	cfg    Config
	loaded atomic.Int64
}

var _ model.Loader = (*Runtime)(nil)

// ONNX Runtime has one environment a process, which onnxruntime_go keeps in
// variables that nothing guards.
var (
	environment sync.Mutex
	opened      bool // guarded by environment
)

// Open loads the library. A process can have one Runtime open at a time; a
// second Open is an error.
func Open(cfg Config) (*Runtime, error) {
	if cfg.Threads < 0 {
		return nil, errors.New("open ONNX Runtime: threads must not be negative")
	}
	cfg.Threads = cmp.Or(cfg.Threads, 1)

	if cfg.Library == "" {
		return nil, errors.New("open ONNX Runtime: no library is named")
	}
	// A name without a directory would be searched for along the system's path.
	library, err := filepath.Abs(cfg.Library)
	if err != nil {
		return nil, fmt.Errorf("open ONNX Runtime: %w", err)
	}

	environment.Lock()
	defer environment.Unlock()
	if opened {
		return nil, errors.New("open ONNX Runtime: it is open in this process already")
	}
	if err := checkVersion(library); err != nil {
		return nil, fmt.Errorf("open ONNX Runtime: %w", err)
	}
	ort.SetSharedLibraryPath(library)
	// Every failure is returned, so ONNX Runtime need not print it, with the
	// values that caused it, on standard error too.
	if err := ort.InitializeEnvironment(ort.WithLogLevelFatal()); err != nil {
		return nil, fmt.Errorf("open ONNX Runtime: %s is not a library of ONNX Runtime 1.%d or newer "+
			"(`make runtime` fetches one): %w", library, oldest, err)
	}
	opened = true
	return &Runtime{cfg: cfg}, nil
}

// Version is the version of the library: "1.31.1".
func (r *Runtime) Version() string { return ort.GetVersion() }

// Close unloads the library. It is an error, and nothing happens, while a model
// is loaded.
func (r *Runtime) Close() error {
	environment.Lock()
	defer environment.Unlock()
	if n := r.loaded.Load(); n > 0 {
		return fmt.Errorf("close ONNX Runtime: %d models are loaded", n)
	}
	if err := ort.DestroyEnvironment(); err != nil {
		return fmt.Errorf("close ONNX Runtime: %w", err)
	}
	opened = false
	return nil
}

// Load makes a Runner of a serialized ONNX model. Nothing but these bytes is
// read: a model that keeps weights in other files does not load.
//
// Inputs must be tensors of a declared rank; scalars of type STRING, FLOAT16 and
// BFLOAT16 cannot be sent. Outputs are tensors, or are made tensors:
//
//   - A classifier's probabilities, which scikit-learn's exporter makes a
//     sequence of maps, are a FLOAT32 tensor with a row each and a column for each
//     class. One more output, with ".labels" after the name, has the classes in
//     the order of the columns; it is the same for every run.
//   - A sequence of tensors is one tensor with a row each. A run in which they
//     differ in shape is model.ErrInvalidInput.
//
// An output whose rank the model does not declare has no dimensions in the
// signature, like a scalar.
func (r *Runtime) Load(artifact []byte) (model.Runner, error) {
	p, data, err := adapt(artifact)
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	options, err := r.sessionOptions()
	if err != nil {
		return nil, fmt.Errorf("load model: %w", err)
	}
	defer func() { _ = options.Destroy() }()
	session, err := ort.NewDynamicAdvancedSessionWithONNXData(data, p.feeds(), p.fetches, options)
	if err != nil {
		return nil, errors.New("load model: ONNX Runtime: " + message(err))
	}
	r.loaded.Add(1)
	return &runner{runtime: r, session: session, plan: p, bindings: bindings{unfit: !p.fits}}, nil
}

func (r *Runtime) sessionOptions() (*ort.SessionOptions, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		o.SetIntraOpNumThreads(r.cfg.Threads),
		o.SetInterOpNumThreads(1),
	)
	for key, value := range map[string]string{
		// Threads that wait for work sleep.
		"session.intra_op.allow_spinning": "0",
		"session.inter_op.allow_spinning": "0",
		// ONNX Runtime's own format could name other files.
		"session.load_model_format": "ONNX",
		// Paths below a file that is not a directory cannot be opened.
		"session.model_external_initializers_file_folder_path": "/dev/null",
	} {
		err = errors.Join(err, o.AddSessionConfigEntry(key, value))
	}
	if err != nil {
		return nil, errors.Join(err, o.Destroy())
	}
	return o, nil
}
