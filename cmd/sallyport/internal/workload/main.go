//go:build spire && linux

// Command workload is a client that the test against a real SPIRE runs under
// different identities: SPIRE tells workloads apart by the path of their binary,
// so a copy of it is another workload. What happens to it, it writes to standard
// output, a JSON Event a line; the test tells it on standard input what to do.
// When standard input ends, so does the program.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
)

// Event is a line of the output.
type Event struct {
	Time time.Time `json:"time"`
	// Kind is what happened: see the commands.
	Kind string `json:"kind"`
	// Code and Reason are those of a call or stream that ended with an error, "OK"
	// and empty of one that was answered.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Detail is for people.
	Detail string `json:"detail,omitempty"`
	// Serial and NotAfter are those of the workload's own SVID.
	Serial   string    `json:"serial,omitempty"`
	NotAfter time.Time `json:"not_after,omitzero"`
	// Load is what the load came to since it began or was last asked.
	Load *Load `json:"load,omitempty"`
	// Token is a JWT-SVID.
	Token string `json:"token,omitempty"`
}

// Load counts what a client with much to do saw.
type Load struct {
	Calls, CallsFailed                                int
	Batches, BatchesFailed, BatchesLost, BatchesTwice int
	// Rotations of the workload's own SVID, and how often the stream moved.
	Rotations, Moves int
}

// flags are those of every command.
type flags struct {
	socket, server, audience string
	wait                     time.Duration // for the first SVID
}

func main() {
	var f flags
	flag.StringVar(&f.socket, "socket", "", "socket of the SPIFFE Workload API")
	flag.StringVar(&f.server, "server", "", "address of the server")
	flag.StringVar(&f.audience, "audience", "", "audience of the JWT-SVID")
	flag.DurationVar(&f.wait, "wait", 10*time.Second, "how long to wait for the first SVID")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := &output{to: json.NewEncoder(os.Stdout)}
	commands := map[string]func(context.Context, flags, io.Reader, *output) error{
		"hold": hold, "load": load, "call": call, "token": token,
	}
	run := commands[flag.Arg(0)]
	if run == nil {
		run = func(context.Context, flags, io.Reader, *output) error {
			return fmt.Errorf("no command %q", flag.Arg(0))
		}
	}
	if err := run(ctx, f, os.Stdin, out); err != nil {
		out.write(Event{Kind: "failed", Detail: err.Error()})
		os.Exit(1) //nolint:forbidigo // the end of main
	}
}

// output writes events; safe for concurrent use.
type output struct {
	mu sync.Mutex // guards to
	to *json.Encoder
}

func (o *output) write(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e.Time = time.Now()
	_ = o.to.Encode(e) // the test sees a line that is missing
}

// outcome is the event of a call or stream that ended with err.
func outcome(kind string, err error) Event {
	e := Event{Kind: kind, Code: status.Code(err).String()}
	if err == nil {
		return e
	}
	e.Detail = status.Convert(err).Message()
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			e.Reason = info.GetReason()
		}
	}
	if cause := identity.HandshakeCause(err); cause != nil {
		e.Reason = cause.Error()
	}
	return e
}

// lines calls do with each line of in until there is none.
func lines(in io.Reader, do func(line string)) error {
	scan := bufio.NewScanner(in)
	for scan.Scan() {
		do(scan.Text())
	}
	return scan.Err()
}

const breastCancer = "breast-cancer"

func row() map[string]*inferencev1.Tensor {
	return map[string]*inferencev1.Tensor{"features": {
		DataType: inferencev1.DataType_DATA_TYPE_FLOAT32,
		Shape:    []int64{1, 30},
		Raw:      make([]byte, 30*4),
	}}
}

func predict(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := inferencev1.NewPredictionServiceClient(conn).Predict(ctx, &inferencev1.PredictRequest{Model: breastCancer, Inputs: row()})
	return err
}

func openStream(ctx context.Context, conn grpc.ClientConnInterface) (grpc.BidiStreamingClient[inferencev1.PredictStreamRequest, inferencev1.PredictStreamResponse], error) {
	stream, err := inferencev1.NewPredictionServiceClient(conn).PredictStream(ctx)
	if err != nil {
		return nil, err
	}
	// Of an error here Recv knows the reason.
	_ = stream.Send(&inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{
		Open: &inferencev1.StreamOpen{Model: breastCancer},
	}})
	if _, err := stream.Recv(); err != nil {
		return nil, err
	}
	return stream, nil
}
