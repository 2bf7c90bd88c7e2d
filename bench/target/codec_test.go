package target

import (
	"testing"

	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// What is put together from parts is the message that it stands for.
func TestNumbered(t *testing.T) {
	r, err := NewRequest(BreastCancer, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, sequence := range []uint64{1, 127, 128, 1 << 40} {
		parts, err := codec{}.Marshal(numbered(r.Batch, sequence))
		if err != nil {
			t.Fatal(err)
		}
		var got inferencev1.PredictStreamRequest
		if err := proto.Unmarshal(parts.Materialize(), &got); err != nil {
			t.Fatal(err)
		}
		want := &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Batch{
			Batch: &inferencev1.StreamBatch{Sequence: sequence, Inputs: r.Inputs},
		}}
		if !proto.Equal(&got, want) {
			t.Errorf("batch %d is another message", sequence)
		}
	}
}

// A batch that was refused is an error, though its answer is not deserialized.
func TestBatchError(t *testing.T) {
	for name, c := range map[string]struct {
		result *inferencev1.StreamResult
		failed bool
	}{
		"outputs": {&inferencev1.StreamResult{Sequence: 9, Result: &inferencev1.StreamResult_Outputs{Outputs: &inferencev1.StreamOutputs{
			Outputs: map[string]*inferencev1.Tensor{"label": {Raw: make([]byte, 8)}},
		}}}, false},
		"status":  {&inferencev1.StreamResult{Sequence: 9, Result: &inferencev1.StreamResult_Status{Status: &status.Status{Code: 8}}}, true},
		"neither": {&inferencev1.StreamResult{Sequence: 9}, true},
	} {
		data, err := proto.Marshal(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: c.result}})
		if err != nil {
			t.Fatal(err)
		}
		var r reply
		if err := (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &r); err != nil {
			t.Fatal(err)
		}
		if err := r.batchError(); (err != nil) != c.failed {
			t.Errorf("%s: %v", name, err)
		}
	}
}
