// Command client asks a Sallyport server for one prediction. Its identity comes
// from the SPIFFE Workload API that SPIFFE_ENDPOINT_SOCKET names:
//
//	export SALLYPORT_SERVER=127.0.0.1:7443 SPIFFE_ENDPOINT_SOCKET=unix://$PWD/dev/workloads/clinic.sock
//	go run ./examples/client
package main

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	err := predict(ctx, os.Getenv("SALLYPORT_SERVER"), log)
	cancel()
	if err != nil {
		log.Error("no prediction", slog.Any("error", err), slog.Any("details", status.Convert(err).Details()))
		os.Exit(1) //nolint:forbidigo // the end of main
	}
}

func predict(ctx context.Context, servers string, log *slog.Logger) error {
	// Servers under /sallyport in our own trust domain; ServerID names another.
	client, err := sallyport.Dial(ctx, sallyport.Config{Servers: strings.Split(servers, ","), Log: log})
	if err != nil {
		return err
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
		return err
	}
	log.Info("prediction", slog.Any("label", answer.GetOutputs()["label"].GetInt64Values()),
		slog.Int64("version", answer.GetVersion()), slog.String("digest", answer.GetDigest()))
	return nil
}
