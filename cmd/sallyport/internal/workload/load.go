//go:build spire && linux

package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	sallyport "github.com/sallyport/sallyport/clients/go"
)

// load is a client of clients/go with much to do: it makes a call and sends a
// batch on its one stream each 50 ms. A call is not made again if it fails.
// Whatever fails is an event ("call", "batch", "stream") and counted; "identity"
// comes with each new SVID. Each line of in is answered with the event "load";
// counting then begins anew.
func load(ctx context.Context, f flags, in io.Reader, out *output) (err error) {
	source, err := openSource(ctx, f, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	client, err := sallyport.Dial(ctx, sallyport.Config{
		Servers: []string{f.server}, WorkloadAPI: f.socket, StartTimeout: f.wait, Retry: sallyport.Retry{Attempts: 1},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	stream, err := client.Stream(ctx, sallyport.StreamConfig{Model: breastCancer})
	if err != nil {
		return err
	}
	l := &loader{client: client, stream: stream, out: out, answers: map[uint64]int{}}
	working, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { source.follow(working, l.renewed) })
	background.Go(func() {
		for range ticks(working, 50*time.Millisecond) {
			l.call(ctx)
		}
	})
	background.Go(func() {
		for range ticks(working, 50*time.Millisecond) {
			l.batch()
		}
		stream.CloseSend()
	})
	background.Go(l.receive)
	err = lines(in, func(string) { l.report() })
	cancel()
	background.Wait()
	return err
}

// loader is the state of load.
type loader struct {
	client *sallyport.Client
	stream *sallyport.Stream
	out    *output

	mu      sync.Mutex     // guards what follows
	answers map[uint64]int // of each batch sent
	rpcs    int            // of the stream when counting began
	load    Load
}

// renewed counts a new SVID.
func (l *loader) renewed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load.Rotations++
}

func (l *loader) call(ctx context.Context) {
	err := predict(ctx, l.client)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load.Calls++
	if err != nil {
		l.load.CallsFailed++
		l.out.write(outcome("call", err))
	}
}

func (l *loader) batch() {
	sequence, err := l.stream.Send(row())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load.Batches++
	if err != nil {
		l.load.BatchesFailed++
		return
	}
	l.answers[sequence] += 0 // its answer may be there already
}

// receive takes the answers of the stream until it has ended.
func (l *loader) receive() {
	for {
		result, err := l.stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				l.out.write(outcome("stream", err))
			}
			return
		}
		l.mu.Lock()
		l.answers[result.GetSequence()]++
		if l.answers[result.GetSequence()] > 1 {
			l.load.BatchesTwice++
		}
		if s := result.GetStatus(); s != nil {
			l.load.BatchesFailed++
			l.out.write(outcome("batch", status.FromProto(s).Err()))
		}
		l.mu.Unlock()
	}
}

// settling is how long a batch may be without its answer before it is lost: longer
// than anything takes on a machine that has much else to do.
const settling = 30 * time.Second

// report waits for the answers to what was sent before it and tells what the load
// came to.
func (l *loader) report() {
	l.mu.Lock()
	sent := slices.Collect(maps.Keys(l.answers))
	l.mu.Unlock()
	unanswered := func() (n int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, sequence := range sent {
			if l.answers[sequence] == 0 {
				n++
			}
		}
		return n
	}
	for patience := time.Now().Add(settling); unanswered() > 0 && time.Now().Before(patience); {
		time.Sleep(10 * time.Millisecond)
	}
	lost := unanswered()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.load.BatchesLost = lost
	sum, rpcs := l.load, len(l.stream.CallIDs())
	sum.Moves = rpcs - max(l.rpcs, 1)
	l.load, l.rpcs = Load{}, rpcs
	l.out.write(Event{Kind: "load", Load: &sum})
}
