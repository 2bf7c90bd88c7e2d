package interceptors_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// refused is a call that must not be answered, in its unary and its stream
// form.
type refused struct {
	name   string
	caller string // path of the SPIFFE ID; /clinic/triage unless given
	// request is what Predict gets. PredictStream is opened with its model,
	// version and outputs and gets its inputs as a batch.
	request *inferencev1.PredictRequest
	// fault calls a method of the fault service instead.
	fault string
	// raw makes the whole RPC by hand; stream tells for which form.
	raw func(stream bool) rawRPC
	// timeout is the caller's deadline; 10 s unless given.
	timeout time.Duration
	// world changes the world for the call.
	world worldOptions
	// before runs when the connection has answered a first call.
	before func(*testing.T, *world)
	// only restricts the case to one form, where the other has none.
	only string

	code   codes.Code
	reason interceptors.Reason
	// details are those beside ErrorInfo and RequestInfo.
	details []string
	// field must be the field of a violation.
	field string
	// bare is for what grpc-go answers by itself, without details.
	bare bool
	// match is a part of the method by which its record is found then.
	match string
	// unrecorded is for the one case in which there can be no record.
	unrecorded bool
}

const (
	badRequest   = "google.rpc.BadRequest"
	quotaFailure = "google.rpc.QuotaFailure"
	retryInfo    = "google.rpc.RetryInfo"
)

// rows is a FLOAT32 tensor of n rows that breast-cancer accepts.
func rows(n int) *inferencev1.Tensor {
	t := &inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{int64(n), 30}}
	t.Raw = make([]byte, n*30*4)
	return t
}

// good is a request that is answered, with changes.
func good(change ...func(*inferencev1.PredictRequest)) *inferencev1.PredictRequest {
	r := &inferencev1.PredictRequest{Model: "breast-cancer", Inputs: map[string]*inferencev1.Tensor{"features": rows(1)}}
	for _, c := range change {
		c(r)
	}
	return r
}

// input changes the input of a good request.
func input(change func(*inferencev1.Tensor)) *inferencev1.PredictRequest {
	r := good()
	change(r.GetInputs()["features"])
	return r
}

// value puts v into the first cell.
func value(v float64) *inferencev1.PredictRequest {
	return input(func(t *inferencev1.Tensor) {
		binary.LittleEndian.PutUint32(t.Raw, math.Float32bits(float32(v)))
	})
}

func modelOf(name string) *inferencev1.PredictRequest {
	return good(func(r *inferencev1.PredictRequest) { r.Model = name })
}

// path is an RPC by hand to a path, with a good body.
func path(p string) func(bool) rawRPC {
	return func(stream bool) rawRPC { return rawRPC{path: p, body: goodBody(stream), open: stream} }
}

// goodBody is the first message of either form.
func goodBody(stream bool) []byte {
	var m proto.Message = good()
	if stream {
		m = open(good())
	}
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return frame(0, data)
}

// body is an RPC by hand to the right path.
func body(make func(good []byte) []byte, end bool) func(bool) rawRPC {
	return func(stream bool) rawRPC {
		p := inferencev1.PredictionService_Predict_FullMethodName
		if stream {
			p = inferencev1.PredictionService_PredictStream_FullMethodName
		}
		return rawRPC{path: p, body: make(goodBody(stream)), open: !end}
	}
}

// hang calls a method that hangs, with a deadline as gRPC writes it.
func hang(timeout string) func(bool) rawRPC {
	return func(stream bool) rawRPC {
		p := "/sallyport.test.Faults/Hang"
		if stream {
			p += "Stream"
		}
		return rawRPC{path: p, headers: map[string]string{"grpc-timeout": timeout}, body: frame(0, nil), open: stream}
	}
}

func open(r *inferencev1.PredictRequest) *inferencev1.PredictStreamRequest {
	return &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{
		Open: &inferencev1.StreamOpen{Model: r.GetModel(), Version: r.GetVersion(), Outputs: r.GetOutputs()},
	}}
}

func batch(sequence uint64, r *inferencev1.PredictRequest) *inferencev1.PredictStreamRequest {
	return &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
		Batch: &inferencev1.StreamBatch{Sequence: sequence, Inputs: r.GetInputs()},
	}}
}

// expire lets every SVID end while connections stay open.
func expire(_ *testing.T, w *world) { w.ahead.Store(int64(2 * time.Hour)) }

// block adds a block to the policy in force.
func block(what string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		w.setPolicy(t, worldPolicy+"blocked: [{"+what+", reason: stolen key}]\n")
	}
}

// use takes n rows in n calls from the caller's quota.
func use(caller string, n int) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		client := inferencev1.NewPredictionServiceClient(w.dial(t, caller))
		for range n {
			if _, err := client.Predict(t.Context(), good()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

var refusedCalls = []refused{
	// Identity.
	{name: "no identity", world: worldOptions{insecure: true}, request: good(), code: codes.Unauthenticated, reason: interceptors.IdentityMissing},
	{name: "SVID expired on a live connection", request: good(), before: expire, code: codes.Unauthenticated, reason: interceptors.IdentityExpired},
	{name: "caller blocked on a live connection", request: good(), before: block(`callers: ["spiffe://sallyport.test/clinic/triage"]`), code: codes.PermissionDenied, reason: interceptors.CallerBlocked},
	{name: "path above the caller blocked", request: good(), before: block(`callers: ["spiffe://sallyport.test/clinic/*"]`), code: codes.PermissionDenied, reason: interceptors.CallerBlocked},
	{name: "trust domain blocked", request: good(), before: block(`callers: ["spiffe://sallyport.test/*"]`), code: codes.PermissionDenied, reason: interceptors.CallerBlocked},
	{name: "address blocked", request: good(), before: block(`addresses: ["127.0.0.0/8"]`), code: codes.PermissionDenied, reason: interceptors.CallerBlocked},

	// Path.
	{name: "unknown method", raw: path("/sallyport.inference.v1.PredictionService/Train"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "unknown service", raw: path("/sallyport.inference.v1.Admin/Predict"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "method in other case", raw: path("/sallyport.inference.v1.PredictionService/predict"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "path without the leading slash", raw: path("sallyport.inference.v1.PredictionService/Predict"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "path without a method", raw: path("/sallyport.inference.v1.PredictionService"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "path with a doubled slash", raw: path("//sallyport.inference.v1.PredictionService/Predict"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "path with a third part", raw: path("/sallyport.inference.v1.PredictionService/Predict/x"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "path with dots", raw: path("/x/../sallyport.inference.v1.PredictionService/Predict"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "path percent-encoded", raw: path("/sallyport.inference.v1.PredictionService%2fPredict"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "path not in UTF-8", raw: path("/sallyport.inference.v1.PredictionService/\xff"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},
	{name: "path of 8 KiB", raw: path("/" + strings.Repeat("a", 8<<10) + "/Predict"), code: codes.Unimplemented, reason: interceptors.MethodUnknown},

	// Policy.
	{name: "caller without a role", caller: "/intern", request: good(), code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
	{name: "caller beside a binding's segment", caller: "/clinic-evil", request: good(), code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
	{name: "the segment of a binding itself", caller: "/clinic", request: good(), code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
	{name: "action not granted", caller: "/describer", request: good(), code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
	{name: "model not granted", request: modelOf("digits"), code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
	{name: "model that does not exist, not granted", request: modelOf("secret-model"), code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
	{name: "model in other case", request: modelOf("Breast-Cancer"), code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
	{name: "model that begins like a granted one", request: modelOf("breast-cancer-2"), code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
	{name: "no model named", caller: "/poor/a", request: modelOf(""), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},
	{name: "introspection not granted", fault: "Foreign", code: codes.PermissionDenied, reason: interceptors.PolicyDenied},

	// Existence, for those who may know.
	{name: "model that does not exist, granted", request: modelOf("absent"), code: codes.NotFound, reason: interceptors.ModelNotFound},
	{name: "version that does not exist", request: good(func(r *inferencev1.PredictRequest) { r.Version = 99 }), code: codes.NotFound, reason: interceptors.ModelNotFound},

	// Quota.
	{name: "requests used up", caller: "/poor/b", request: good(), before: use("/poor/b", 3), only: "unary", code: codes.ResourceExhausted, reason: interceptors.QuotaRequests, details: []string{quotaFailure, retryInfo}},
	{name: "messages of a stream used up", caller: "/poor/b", request: good(), before: use("/poor/b", 2), only: "stream", code: codes.ResourceExhausted, reason: interceptors.QuotaRequests, details: []string{quotaFailure, retryInfo}},
	{name: "rows used up", caller: "/poor/c", request: good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(5) }), before: useRows("/poor/c", 5), code: codes.ResourceExhausted, reason: interceptors.QuotaRows, details: []string{quotaFailure, retryInfo}},
	{name: "more rows than one request may have", caller: "/poor/d", request: good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(6) }), code: codes.ResourceExhausted, reason: interceptors.QuotaRows, details: []string{quotaFailure}},
	{name: "rows claimed that were not sent", caller: "/poor/e", request: input(func(t *inferencev1.Tensor) { t.Shape[0] = math.MaxInt32 }), code: codes.ResourceExhausted, reason: interceptors.QuotaRows, details: []string{quotaFailure}},
	{name: "streams of one model used up", caller: "/two/roles", request: good(), before: holdStream("/two/roles"), only: "stream", code: codes.ResourceExhausted, reason: interceptors.QuotaStreams, details: []string{quotaFailure}},
	{name: "streams used up", caller: "/poor/f", request: good(), before: holdStream("/poor/f"), only: "stream", code: codes.ResourceExhausted, reason: interceptors.QuotaStreams, details: []string{quotaFailure}},

	// Validation.
	{name: "model name with forbidden characters", caller: "/admin", request: modelOf("../../etc/passwd"), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "model"},
	{name: "model name too long", caller: "/admin", request: modelOf(strings.Repeat("m", 20000)), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "model"},
	{name: "negative version", request: good(func(r *inferencev1.PredictRequest) { r.Version = -1 }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "version"},
	{name: "no inputs", request: good(func(r *inferencev1.PredictRequest) { r.Inputs = nil }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "inputs"},
	{name: "input without a name", request: good(func(r *inferencev1.PredictRequest) { r.Inputs[""] = rows(1) }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},
	{name: "input with a name of 50 kB", request: good(func(r *inferencev1.PredictRequest) { r.Inputs[strings.Repeat("n", 50000)] = rows(1) }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},
	{name: "empty map entries by the thousand", raw: body(func(b []byte) []byte { return frame(0, slices.Repeat([]byte{0x1a, 0}, 20000)) }, true), only: "unary", code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "inputs"},
	{name: "dimensions by the thousand", request: input(func(t *inferencev1.Tensor) { t.Shape = make([]int64, 30000) }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "shape"},
	{name: "outputs by the thousand", request: good(func(r *inferencev1.PredictRequest) { r.Outputs = make([]string, 20000) }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "outputs"},
	{name: "too many inputs", request: good(func(r *inferencev1.PredictRequest) {
		for i := range 300 {
			r.Inputs[fmt.Sprint(i)] = &inferencev1.Tensor{DataType: inferencev1.DataType_DATA_TYPE_BOOL, Shape: []int64{0}}
		}
	}), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "inputs"},
	{name: "output named twice", request: good(func(r *inferencev1.PredictRequest) { r.Outputs = []string{"label", "label"} }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: "outputs"},
	{name: "data type not given", request: input(func(t *inferencev1.Tensor) { t.DataType = 0 }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},
	{name: "data type unknown", request: input(func(t *inferencev1.Tensor) { t.DataType = 99 }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},
	{name: "negative dimension", request: input(func(t *inferencev1.Tensor) { t.Shape = []int64{-1, 30} }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},
	{name: "seventeen dimensions", request: input(func(t *inferencev1.Tensor) { t.Shape = slices.Repeat([]int64{1}, 17) }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},
	{name: "elements given twice", request: input(func(t *inferencev1.Tensor) { t.FloatValues = make([]float32, 30) }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: `inputs["features"].float_values`},
	{name: "elements in the wrong field", request: input(func(t *inferencev1.Tensor) { t.Raw, t.DoubleValues = nil, make([]float64, 30) }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: `inputs["features"].double_values`},
	{name: "fewer elements than the shape says", request: input(func(t *inferencev1.Tensor) { t.Raw = t.Raw[:100] }), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: `inputs["features"].raw`},
	{name: "element outside its type", request: input(func(t *inferencev1.Tensor) {
		t.DataType, t.Raw, t.Int64Values = inferencev1.DataType_DATA_TYPE_INT8, nil, append(make([]int64, 29), 128)
	}), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: `inputs["features"].int64_values[29]`},
	{name: "shape whose product overflows", request: input(func(t *inferencev1.Tensor) {
		t.Shape = []int64{1, math.MaxInt32, math.MaxInt32, math.MaxInt32}
	}), code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}, field: `inputs["features"].shape`},

	// Contract.
	{name: "input that the model does not have", request: good(func(r *inferencev1.PredictRequest) { r.Inputs["x"] = rows(1) }), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "input that is missing", request: &inferencev1.PredictRequest{Model: "breast-cancer", Inputs: map[string]*inferencev1.Tensor{"x": rows(1)}}, code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "input of another type", request: input(func(t *inferencev1.Tensor) {
		t.DataType, t.Raw = inferencev1.DataType_DATA_TYPE_FLOAT64, make([]byte, 240)
	}), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "input of another rank", request: input(func(t *inferencev1.Tensor) { t.Shape = []int64{30} }), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "input of another width", request: input(func(t *inferencev1.Tensor) { t.Shape, t.Raw = []int64{1, 29}, t.Raw[:116] }), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "no rows", request: input(func(t *inferencev1.Tensor) { t.Shape, t.Raw = []int64{0, 30}, nil }), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "NaN", request: value(math.NaN()), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "infinity", request: value(math.Inf(1)), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "value below the column's least", request: value(-1), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "value above the column's greatest", request: value(1e9), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "output that the model does not have", request: good(func(r *inferencev1.PredictRequest) { r.Outputs = []string{"weights"} }), code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},
	{name: "string that is too long", request: &inferencev1.PredictRequest{Model: "ticket-routing", Inputs: map[string]*inferencev1.Tensor{"text": {
		DataType: inferencev1.DataType_DATA_TYPE_STRING, Shape: []int64{1, 1}, StringValues: []string{strings.Repeat("x", 50000)},
	}}}, code: codes.InvalidArgument, reason: interceptors.ContractViolated, details: []string{badRequest}},

	// Size and form of the body.
	{name: "message larger than the bound", request: good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(1000) }), code: codes.ResourceExhausted, reason: interceptors.MessageTooLarge},
	{name: "message that claims 4 GiB", raw: body(func([]byte) []byte { return []byte{0, 0xff, 0xff, 0xff, 0xff} }, true), code: codes.ResourceExhausted, reason: interceptors.MessageTooLarge},
	{name: "body that is not Protobuf", raw: body(func([]byte) []byte { return frame(0, []byte("GET / HTTP/1.1")) }, true), code: codes.InvalidArgument, reason: interceptors.Malformed},
	{name: "text not in UTF-8", raw: body(func([]byte) []byte { return frame(0, []byte{0x0a, 0x04, 0x0a, 0x02, 0xff, 0xfe}) }, true), code: codes.InvalidArgument, reason: interceptors.Malformed},
	{name: "body that ends within a message", raw: body(func(b []byte) []byte { return b[:len(b)-1] }, true), code: codes.InvalidArgument, reason: interceptors.Malformed},
	{name: "body that ends within the prefix", raw: body(func(b []byte) []byte { return b[:3] }, true), code: codes.InvalidArgument, reason: interceptors.Malformed},
	{name: "compressed flag without an encoding", raw: body(func(b []byte) []byte { b[0] = 1; return b }, true), code: codes.InvalidArgument, reason: interceptors.Malformed},
	{name: "no message", raw: body(func([]byte) []byte { return nil }, true), only: "unary", code: codes.InvalidArgument, reason: interceptors.Malformed},
	{name: "two messages to a unary method", raw: body(func(b []byte) []byte { return slices.Repeat(b, 2) }, true), only: "unary", code: codes.InvalidArgument, reason: interceptors.Malformed},
	{name: "stream that ends before it opens", raw: body(func([]byte) []byte { return nil }, true), only: "stream", code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},
	{name: "stream that opens twice", raw: body(func(b []byte) []byte { return slices.Repeat(b, 2) }, true), only: "stream", code: codes.InvalidArgument, reason: interceptors.RequestInvalid, details: []string{badRequest}},

	// Faults of ours.
	{name: "panic in the handler", caller: "/inspector", fault: "Panic", code: codes.Internal, reason: interceptors.Internal},
	{name: "error that is not ours", caller: "/inspector", fault: "Foreign", code: codes.Internal, reason: interceptors.Internal},
	{name: "caller's deadline", caller: "/inspector", raw: hang("200m"), match: "Hang", code: codes.DeadlineExceeded, reason: interceptors.DeadlineExceeded, bare: true},
	{name: "caller's deadline that has passed on arrival", caller: "/inspector", raw: hang("1n"), code: codes.DeadlineExceeded, reason: interceptors.DeadlineExceeded, bare: true},
	{name: "server's deadline", caller: "/inspector", fault: "Hang", world: worldOptions{maxCall: 200 * time.Millisecond}, code: codes.DeadlineExceeded, reason: interceptors.DeadlineExceeded},
	{name: "body that does not come", world: worldOptions{maxCall: 200 * time.Millisecond}, raw: body(func([]byte) []byte { return []byte{0, 0} }, false), code: codes.DeadlineExceeded, reason: interceptors.DeadlineExceeded, bare: true, match: "Predict"},
	{name: "stream that does not go on", world: worldOptions{maxCall: 200 * time.Millisecond}, raw: body(func(b []byte) []byte { return b }, false), only: "stream", code: codes.DeadlineExceeded, reason: interceptors.DeadlineExceeded, bare: true, match: "Predict"},
	{name: "record cannot be written", request: good(), before: func(t *testing.T, w *world) {
		if err := w.audit.Close(); err != nil {
			t.Fatal(err)
		}
	}, code: codes.Unavailable, reason: interceptors.AuditUnavailable, unrecorded: true},
}

// useRows takes n rows in one call from the caller's quota.
func useRows(caller string, n int) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		_, err := inferencev1.NewPredictionServiceClient(w.dial(t, caller)).Predict(t.Context(),
			good(func(r *inferencev1.PredictRequest) { r.Inputs["features"] = rows(n) }))
		if err != nil {
			t.Fatal(err)
		}
	}
}

// holdStream opens a stream and leaves it open.
func holdStream(caller string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		s, err := inferencev1.NewPredictionServiceClient(w.dial(t, caller)).PredictStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(open(good())); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRefusals is the table of refused calls, each as a unary call and as a
// stream: code, reason, details and exactly one record.
func TestRefusals(t *testing.T) {
	for _, form := range []string{"unary", "stream"} {
		for _, c := range refusedCalls {
			if c.only != "" && c.only != form {
				continue
			}
			t.Run(form+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, c.world)
				for _, fault := range c.faults(t, w, c.attempt(t, w, form == "stream")) {
					t.Error(fault)
				}
			})
		}
	}
}

// attempt makes the call and returns the status that refused it.
func (c refused) attempt(t *testing.T, w *world, stream bool) *status.Status {
	t.Helper()
	caller := c.caller
	if caller == "" {
		caller = "/clinic/triage"
	}
	if c.raw != nil {
		return rawStatus(t, c.raw(stream).call(t, w.address, w.creds(t, caller)))
	}
	if c.world.insecure {
		caller = ""
	}
	conn := w.dial(t, caller)
	if c.before != nil {
		// The connection is there before the world changes. The call takes one
		// request of the quota at most, and no row.
		_, _ = inferencev1.NewModelServiceClient(conn).ListModels(t.Context(), &inferencev1.ListModelsRequest{})
		c.before(t, w)
	}
	timeout := c.timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var header metadata.MD
	var err error
	switch {
	case c.fault != "" && stream:
		err = faultStream(ctx, conn, c.fault, &header)
	case c.fault != "":
		err = conn.Invoke(ctx, "/sallyport.test.Faults/"+c.fault, &emptypb.Empty{}, &emptypb.Empty{}, grpc.Header(&header))
	case stream:
		err = predictStream(ctx, conn, c.request, &header)
	default:
		_, err = inferencev1.NewPredictionServiceClient(conn).Predict(ctx, c.request, grpc.Header(&header))
	}
	st := status.Convert(err)
	if got, want := callID(st), strings.Join(header.Get(interceptors.CallIDHeader), ""); err != nil && got != want && c.timeout == 0 {
		t.Errorf("call id %q in the details, %q in the header", got, want)
	}
	return st
}

// predictStream opens a stream, sends one batch, and returns what refused it:
// the stream's error or the batch's status.
func predictStream(ctx context.Context, conn *grpc.ClientConn, r *inferencev1.PredictRequest, header *metadata.MD) error {
	s, err := inferencev1.NewPredictionServiceClient(conn).PredictStream(ctx)
	if err != nil {
		return err
	}
	// An error of Send says only that the stream has ended; Recv says why.
	_ = s.Send(open(r))
	_ = s.Send(batch(7, r))
	_ = s.CloseSend()
	var refusal error
	err = drain(func() error {
		m, err := s.Recv()
		if result := m.GetResult(); result.GetStatus() != nil {
			if result.GetSequence() != 7 {
				return fmt.Errorf("result of batch %d", result.GetSequence())
			}
			refusal = status.ErrorProto(result.GetStatus())
		}
		return err
	})
	if md, herr := s.Header(); herr == nil {
		*header = md
	}
	return errors.Join(refusal, err)
}

func faultStream(ctx context.Context, conn *grpc.ClientConn, name string, header *metadata.MD) error {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/sallyport.test.Faults/"+name+"Stream")
	if err != nil {
		return err
	}
	_ = s.SendMsg(&emptypb.Empty{})
	err = drain(func() error { return s.RecvMsg(&emptypb.Empty{}) })
	if md, herr := s.Header(); herr == nil {
		*header = md
	}
	return err
}

// rawStatus is the status of an answer that was read by hand.
func rawStatus(t *testing.T, answer map[string]string) *status.Status {
	t.Helper()
	if answer["reset"] != "" {
		// How grpc-go ends a call whose deadline has passed: the caller knows.
		return status.New(codes.DeadlineExceeded, "reset: "+answer["reset"])
	}
	code, err := strconv.Atoi(answer["grpc-status"])
	if err != nil {
		t.Fatalf("grpc-status %q in %v", answer["grpc-status"], answer)
	}
	st := &spb.Status{Code: int32(code)}
	if d := answer["grpc-status-details-bin"]; d != "" {
		data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(d, "="))
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(data, st); err != nil {
			t.Fatal(err)
		}
	}
	return status.FromProto(st)
}

func callID(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RequestInfo); ok {
			return info.GetRequestId()
		}
	}
	return ""
}

// faults holds the status and the audit log against what is wanted.
func (c refused) faults(t *testing.T, w *world, st *status.Status) (faults []string) {
	t.Helper()
	fault := func(format string, a ...any) { faults = append(faults, fmt.Sprintf(format, a...)) }
	if st.Code() != c.code {
		fault("code %s, want %s (%s)", st.Code(), c.code, st.Message())
	}
	if strings.Contains(st.Message(), "secret") {
		fault("the caller was told %q", st.Message())
	}
	var details []string
	infos := 0
	field := false
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			infos++
			if d.GetReason() != string(c.reason) || d.GetDomain() != interceptors.Domain {
				fault("reason %s in domain %s, want %s", d.GetReason(), d.GetDomain(), c.reason)
			}
		case *errdetails.RequestInfo:
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				field = field || v.GetField() == c.field || strings.HasSuffix(v.GetField(), "."+c.field)
				if v.GetDescription() == "" {
					fault("violation of %q without a description", v.GetField())
				}
			}
			details = append(details, badRequest)
		case *errdetails.RetryInfo:
			if d.GetRetryDelay().AsDuration() <= 0 {
				fault("retry delay is not positive")
			}
			details = append(details, retryInfo)
		case *errdetails.QuotaFailure:
			details = append(details, quotaFailure)
		default:
			fault("unexpected detail %T", d)
		}
	}
	if !slices.Equal(details, c.details) {
		fault("details %v, want %v", details, c.details)
	}
	if c.field != "" && !field {
		fault("no violation of %q in %v", c.field, st.Details())
	}
	match := func(r *auditv1.Record) bool { return r.GetCallId() == callID(st) }
	if infos == 0 && c.bare {
		// Whoever answered knows no call id.
		match = func(r *auditv1.Record) bool { return strings.Contains(r.GetMethod(), cmp.Or(c.match, "Hang")) }
	} else if infos != 1 {
		fault("%d ErrorInfo, want exactly one", infos)
	}
	records := w.recorded(t, match)
	if c.unrecorded {
		if len(records) != 0 {
			fault("%d records of a call that could not be recorded", len(records))
		}
		return faults
	}
	if len(records) != 1 {
		fault("%d records, want exactly one", len(records))
		return faults
	}
	rec := records[0]
	if rec.GetReason() != string(c.reason) && rec.GetRefused()[string(c.reason)] != 1 {
		fault("record has reason %q and refused batches %v, want %s", rec.GetReason(), rec.GetRefused(), c.reason)
	}
	if rec.GetReason() != "" && rec.GetCode() != uint32(c.code) {
		fault("record has code %d, want %d", rec.GetCode(), c.code)
	}
	if rec.GetPeerAddress() == "" || rec.GetTime() == nil || rec.GetMethod() == "" {
		fault("record lacks peer, time or method: %v", rec)
	}
	if !c.world.insecure && (!strings.HasPrefix(rec.GetCaller().GetSpiffeId(), "spiffe://sallyport.test/") || rec.GetCaller().GetSvidSerial() == "") {
		fault("record has caller %v", rec.GetCaller())
	}
	return faults
}
