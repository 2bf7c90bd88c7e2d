package modelserver_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/bench/peers/contract"
	"github.com/sallyport/sallyport/bench/peers/modelserver"
	"github.com/sallyport/sallyport/bench/target"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

func TestServer(t *testing.T) {
	spec, err := contract.Read("../../../examples/models", target.Digits, 1)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	address, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- modelserver.Serve(ctx, onnxtest.Library(t), map[string]contract.Model{target.Digits: spec}, func(a string) { address <- a })
	}()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var at string
	select {
	case at = <-address:
	case err := <-ended:
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(at, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := inferencev1.NewPredictionServiceClient(conn)
	request, err := target.NewRequest(target.Digits, 3)
	if err != nil {
		t.Fatal(err)
	}
	good := request.Inputs["features"]
	for name, c := range map[string]struct {
		header, model string
		raw           []byte
		want          codes.Code
	}{
		"as it should be":             {target.Digits, target.Digits, good.GetRaw(), codes.OK},
		"the header names another":    {"other", target.Digits, good.GetRaw(), codes.PermissionDenied},
		"no such model":               {"other", "other", good.GetRaw(), codes.NotFound},
		"a number that is no number":  {target.Digits, target.Digits, append([]byte{0, 0, 0xc0, 0x7f}, good.GetRaw()[4:]...), codes.InvalidArgument},
		"fewer elements than claimed": {target.Digits, target.Digits, good.GetRaw()[4:], codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := client.Predict(metadata.AppendToOutgoingContext(t.Context(), modelserver.ModelHeader, c.header), &inferencev1.PredictRequest{
				Model: c.model,
				Inputs: map[string]*inferencev1.Tensor{
					"features": {DataType: good.GetDataType(), Shape: good.GetShape(), Raw: c.raw},
				},
			})
			if status.Code(err) != c.want {
				t.Fatalf("answer %v, error %v; want %v", answer, err, c.want)
			}
			if err == nil && len(answer.GetOutputs()["label"].GetRaw()) != 3*8 {
				t.Errorf("labels %v", answer.GetOutputs()["label"])
			}
		})
	}
}
