package sallyport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// Two replicas are one service. Who calls is what the Workload API says.
func Example() {
	servers, workloadAPI, stop := exampleServers(2)
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := sallyport.Dial(ctx, sallyport.Config{
		Servers:     servers,     // HOST:PORT of each, or of a name that stands for all
		WorkloadAPI: workloadAPI, // left out, SPIFFE_ENDPOINT_SOCKET says it
		Balance:     sallyport.LeastRequest,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = client.Close() }()

	answer, err := client.Predict(ctx, &inferencev1.PredictRequest{
		Model: "breast-cancer",
		Inputs: map[string]*inferencev1.Tensor{"features": {
			DataType:    inferencev1.DataType_DATA_TYPE_FLOAT32,
			Shape:       []int64{1, 30}, // one row
			FloatValues: make([]float32, 30),
		}},
	})
	if err != nil {
		fmt.Println(err) // and its details: docs/errors.md
		return
	}
	fmt.Println(answer.GetModel(), "label", answer.GetOutputs()["label"].GetShape())
	// Output: breast-cancer label [1]
}

// Batches go out while results come in. Every batch has one result, outputs or the
// status that says why there are none, though replicas come and go.
func ExampleClient_Stream() {
	servers, workloadAPI, stop := exampleServers(2)
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := sallyport.Dial(ctx, sallyport.Config{Servers: servers, WorkloadAPI: workloadAPI})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = client.Close() }()
	stream, err := client.Stream(ctx, sallyport.StreamConfig{Model: "breast-cancer", Ordered: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		defer stream.CloseSend()
		for rows := range 3 {
			if _, err := stream.Send(measurements(rows + 1)); err != nil {
				return // Recv tells why
			}
		}
	}()
	for {
		result, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(result.GetSequence(), result.GetStatus().GetMessage(), result.GetOutputs().GetOutputs()["label"].GetShape())
	}
	// Output:
	// 1  [1]
	// 2  [2]
	// 3  [3]
}

// exampleServers starts replicas and tells their addresses and the Workload API of
// a caller.
func exampleServers(n int) (servers []string, workloadAPI string, stop func()) {
	t := &exampleTB{}
	f := newFleet(t, n, time.Hour)
	return f.addresses, f.authority.Socket("clinic"), t.stop
}

// exampleTB lets an example use what tests do.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (t *exampleTB) Helper()                  {}
func (t *exampleTB) Context() context.Context { return context.Background() }
func (t *exampleTB) Cleanup(f func())         { t.cleanups = append(t.cleanups, f) }
func (t *exampleTB) TempDir() string          { return shortDir(t) }
func (t *exampleTB) Error(args ...any)        { panic(fmt.Sprint(args...)) }
func (t *exampleTB) Fatal(args ...any)        { panic(fmt.Sprint(args...)) }

func (t *exampleTB) stop() {
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
}
