package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// numbers is a dataset of n rows, whose one column counts from 0.
func numbers(t testing.TB, n int) *dataset {
	t.Helper()
	var csv strings.Builder
	csv.WriteString("x\n")
	for i := range n {
		fmt.Fprintln(&csv, i)
	}
	d, err := parseInput("csv", []byte(csv.String()), []*inferencev1.TensorSpec{spec("x", int64s, []int64{-1})}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// counted fails the test unless p has the rows of numbers, in their order.
func counted(t *testing.T, p *prediction, n int) {
	t.Helper()
	want := make([]int64, n)
	for i := range want {
		want[i] = int64(i)
	}
	if diff := cmp.Diff(want, integers(p.outputs["y"])); diff != "" {
		t.Error(diff)
	}
	if p.rows != n || !slices.Equal(p.outputs["y"].GetShape(), []int64{int64(n)}) {
		t.Errorf("%d rows of shape %v", p.rows, p.outputs["y"].GetShape())
	}
}

// integers are the elements of an INT64 tensor.
func integers(t *inferencev1.Tensor) []int64 {
	values := make([]int64, len(t.GetRaw())/8)
	for i := range values {
		values[i] = int64(binary.LittleEndian.Uint64(t.GetRaw()[8*i:]))
	}
	return values
}

// echo answers x as y.
func echo(inputs map[string]*inferencev1.Tensor) map[string]*inferencev1.Tensor {
	return map[string]*inferencev1.Tensor{"y": inputs["x"]}
}

func overQuota(t testing.TB, wait time.Duration) error {
	return refusal(t, codes.ResourceExhausted, "row quota exhausted", reason("QUOTA_ROWS"), retryIn(wait))
}

func TestPredictCalls(t *testing.T) {
	var got []string
	overOnce := true
	c := connect(t, &scriptedServer{predict: func(ctx context.Context, r *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		values := integers(r.GetInputs()["x"])
		if values[0] == 4 && overOnce {
			overOnce = false
			return nil, overQuota(t, time.Millisecond)
		}
		got = append(got, fmt.Sprintf("%s %d %v %v", r.GetModel(), r.GetVersion(), r.GetOutputs(), values))
		if err := grpc.SetHeader(ctx, metadata.Pairs(interceptors.CallIDHeader, fmt.Sprint("id", len(got)))); err != nil {
			return nil, err
		}
		return &inferencev1.PredictResponse{Model: "m", Version: 7, Digest: "sha256:00", Outputs: echo(r.GetInputs())}, nil
	}})
	var progress []int
	p, err := predictCalls(t.Context(), c, request{
		model: "m", outputs: []string{"y"}, data: numbers(t, 5), batch: 2,
		progress: func(done int) { progress = append(progress, done) },
	})
	if err != nil {
		t.Fatal(err)
	}
	counted(t, p, 5)
	// The version of the first answer is asked for from then on.
	want := []string{"m 0 [y] [0 1]", "m 7 [y] [2 3]", "m 7 [y] [4]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(progress, []int{2, 4, 5}) {
		t.Errorf("progress %v", progress)
	}
	if p.model != "m" || p.version != 7 || p.digest != "sha256:00" || !slices.Equal(p.callIDs, []string{"id1", "id2", "id3"}) {
		t.Errorf("%+v", p)
	}
}

func TestPredictCallsRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		batch int
		err   error
		want  string
		calls int
	}{
		{"one call is not made again", 5, overQuota(t, time.Millisecond), "RESOURCE_EXHAUSTED (QUOTA_ROWS)", 1},
		{"a quota that takes longer than anyone waits", 2, overQuota(t, 6*time.Hour), "rows 1 to 2: a command waits 5m0s for a quota at most, and this takes 6h0m0s: RESOURCE_EXHAUSTED (QUOTA_ROWS)", 1},
		{"no time to wait for the quota", 2, overQuota(t, 2*time.Minute), "rows 1 to 2: RESOURCE_EXHAUSTED (QUOTA_ROWS)", 1},
		{"refused for good", 2, status.Error(codes.InvalidArgument, "x"), "rows 1 to 2: INVALID_ARGUMENT", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			calls := 0
			c := connect(t, &scriptedServer{predict: func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
				calls++
				return nil, tt.err
			}})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := predictCalls(ctx, c, request{model: "m", data: numbers(t, 5), batch: tt.batch})
			if text := errText(classify(err)); !strings.HasPrefix(text, tt.want) || calls != tt.calls {
				t.Errorf("%d calls, error %q", calls, text)
			}
		})
	}
}

func TestPredictCallsUnusable(t *testing.T) {
	tensor := func(values []int64, shape ...int64) *inferencev1.Tensor {
		return &inferencev1.Tensor{DataType: int64s, Shape: shape, Int64Values: values}
	}
	for _, tt := range []struct {
		name    string
		answers []map[string]*inferencev1.Tensor
		want    string
	}{
		{"fewer elements than the shape says", []map[string]*inferencev1.Tensor{{"y": tensor([]int64{1}, 2)}, {}}, `output "y": a tensor of shape [2] and type INT64 has 1 elements`},
		{"shape beyond all bounds", []map[string]*inferencev1.Tensor{{"y": tensor(nil, 1<<40, 1<<40)}, {}}, `output "y"`},
		{"raw that is no whole element", []map[string]*inferencev1.Tensor{{"y": {DataType: int64s, Shape: []int64{1}, Raw: make([]byte, 15)}}, {}}, `output "y"`},
		{"no type", []map[string]*inferencev1.Tensor{{"y": {Shape: []int64{0}}}, {}}, `output "y"`},
		{"other outputs", []map[string]*inferencev1.Tensor{{"y": tensor([]int64{1}, 1)}, {"z": tensor([]int64{1}, 1)}}, "batches differ in their outputs"},
		{"other rank", []map[string]*inferencev1.Tensor{{"y": tensor([]int64{1}, 1)}, {"y": tensor([]int64{1}, 1, 1)}}, `output "y": its parts do not go together: send all rows in one batch`},
		{"other rows of as many elements", []map[string]*inferencev1.Tensor{{"y": tensor(make([]int64, 6), 1, 2, 3)}, {"y": tensor(make([]int64, 6), 1, 3, 2)}}, "send all rows in one batch"},
		{"no rows", []map[string]*inferencev1.Tensor{{"y": tensor([]int64{1})}, {"y": tensor([]int64{1})}}, "send all rows in one batch"},
		{"raw and typed", []map[string]*inferencev1.Tensor{{"y": {DataType: int64s, Shape: []int64{1}, Raw: make([]byte, 8)}}, {"y": tensor([]int64{1}, 1)}}, "send all rows in one batch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answers := tt.answers
			c := connect(t, &scriptedServer{predict: func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
				answer := &inferencev1.PredictResponse{Outputs: answers[0]}
				answers = answers[1:]
				return answer, nil
			}})
			_, err := predictCalls(t.Context(), c, request{model: "m", data: numbers(t, 2), batch: 1})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// What names the columns of an output is the same for all batches.
func TestPredictCallsLabels(t *testing.T) {
	c := connect(t, &scriptedServer{predict: func(context.Context, *inferencev1.PredictRequest) (*inferencev1.PredictResponse, error) {
		return &inferencev1.PredictResponse{Outputs: map[string]*inferencev1.Tensor{
			"p":        {DataType: float32s, Shape: []int64{1, 2}, FloatValues: []float32{0.25, 0.75}},
			"p.labels": {DataType: texts, Shape: []int64{2}, StringValues: []string{"no", "yes"}},
		}}, nil
	}})
	p, err := predictCalls(t.Context(), c, request{model: "m", data: numbers(t, 2), batch: 1})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := p.writeCSV(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("p[no],p[yes]\n0.25,0.75\n0.25,0.75\n", b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestBatchSize(t *testing.T) {
	small := numbers(t, 10)
	wide := &dataset{rows: 4, inputs: map[string]*inferencev1.Tensor{"x": {DataType: uint8s, Shape: []int64{4, 1 << 20}, Raw: make([]byte, 4<<20)}}}
	whole := &dataset{inputs: wide.inputs}
	for name, tt := range map[string]struct {
		data   *dataset
		wanted int
		most   int64
		want   int
	}{
		"as many as there are":         {small, 0, 0, 10},
		"as many as the model takes":   {small, 0, 3, 3},
		"as wanted":                    {small, 50, 3, 50},
		"as many as fit a message":     {wide, 0, 100, 2},
		"a model that has no rows":     {whole, 0, 0, 1},
		"a model that has no rows (2)": {whole, 5, 0, 5},
	} {
		got := batchSize(tt.data, tt.wanted, tt.most)
		if got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
		if first := (span{0, min(got, tt.data.rows)}); tt.wanted == 0 && tt.data.rows > 0 {
			size := proto.Size(&inferencev1.PredictRequest{Inputs: first.inputs(tt.data)})
			if size > maxBatchBytes {
				t.Errorf("%s: a message of %d bytes", name, size)
			}
		}
	}
}

func TestPauseEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if pause(ctx, time.Hour) {
		t.Error("waited")
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Error(ctx.Err())
	}
}
