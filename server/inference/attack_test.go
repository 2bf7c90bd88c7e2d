package inference_test

import (
	"context"
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

const (
	// streamsOnOne is how many streams a connection may have.
	streamsOnOne = 100
	// idleBytes bounds what an open stream costs while nothing happens on it: 24 KiB
	// were measured, of which the goroutine's stack is 8.
	idleBytes = 48 << 10
	// goroutinesOnOne are those of a connection, whatever its streams do; of the
	// attacker, too.
	goroutinesOnOne = 6
)

// noWindow is the setting of a caller to whom nothing can be sent.
var noWindow = http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}

// TestManyOpenStreams opens 10,000 streams that wait, has each of them run a batch,
// and closes them all.
func TestManyOpenStreams(t *testing.T) {
	connections := 100
	if testing.Short() {
		connections = 10
	}
	streams := connections * streamsOnOne
	w := newWorld(t, worldConfig{})
	warm := w.attack(t)
	warm.send(warm.open(), true, encoded(t, opening("breast-cancer")))
	eventually(t, "a stream ends", func() bool { return warm.ended.Load() == 1 })
	goroutines, before := runtime.NumGoroutine(), memory()

	attackers := make([]*attacker, connections)
	open, row := encoded(t, opening("breast-cancer")), encoded(t, batch(1, breastCancer(1)))
	for i := range attackers {
		attackers[i] = w.attack(t)
		for range streamsOnOne {
			attackers[i].send(attackers[i].open(), false, open)
		}
	}
	count := func(of func(*attacker) int64) (n int64) {
		for _, a := range attackers {
			n += of(a)
		}
		return n
	}
	messages := func(a *attacker) int64 { return a.messages.Load() }
	eventually(t, "all streams are open", func() bool { return count(messages) == int64(streams) })

	// One goroutine a stream, but for those whose answer is still on its way.
	eventually(t, "idle streams have one goroutine", func() bool {
		return runtime.NumGoroutine()-goroutines <= streams+connections*goroutinesOnOne
	})
	each := (memory() - before) / int64(streams)
	t.Logf("an idle stream costs %d bytes and %.2f goroutines, its part of the connection included",
		each, float64(runtime.NumGoroutine()-goroutines)/float64(streams))
	if each > idleBytes {
		t.Errorf("an idle stream costs %d bytes, more than %d", each, idleBytes)
	}

	for _, a := range attackers {
		for stream := uint32(1); stream < a.next; stream += 2 {
			a.send(stream, false, row)
		}
	}
	eventually(t, "all batches are answered", func() bool { return count(messages) == 2*int64(streams) })
	if each := (memory() - before) / int64(streams); each > idleBytes {
		t.Errorf("after a batch a stream costs %d bytes, more than %d", each, idleBytes)
	}
	for _, a := range attackers {
		for stream := uint32(1); stream < a.next; stream += 2 {
			a.send(stream, true, nil)
		}
	}
	eventually(t, "all streams have ended", func() bool {
		return count(func(a *attacker) int64 { return a.ended.Load() }) == int64(streams)
	})
	eventually(t, "their goroutines, too", func() bool {
		return runtime.NumGoroutine()-goroutines <= connections*goroutinesOnOne
	})
}

// TestStreamsOfWhichLittleComes has streams that were opened and then say nothing,
// or a part of what they announce, or everything but read nothing.
func TestStreamsOfWhichLittleComes(t *testing.T) {
	const connections = 5
	announced := binary.BigEndian.AppendUint32([]byte{0}, maxMessage)
	for name, c := range map[string]struct {
		send     func(a *attacker, stream uint32)
		settings []http2.Setting
		ends     bool // whether the server ends the stream
	}{
		"nothing":         {send: func(*attacker, uint32) {}},
		"a header":        {send: func(a *attacker, stream uint32) { a.send(stream, false, announced) }},
		"a byte, the end": {send: func(a *attacker, stream uint32) { a.send(stream, true, append(announced, 1)) }, ends: true},
		"half closed": {send: func(a *attacker, stream uint32) {
			a.send(stream, false, encoded(a.tb, opening("breast-cancer")))
			a.send(stream, true, nil)
		}, ends: true},
		"a byte of a batch": {send: func(a *attacker, stream uint32) {
			a.send(stream, false, encoded(a.tb, opening("breast-cancer")))
			a.send(stream, false, append(announced, 1))
		}},
		"more than its window": {settings: []http2.Setting{noWindow}, send: func(a *attacker, stream uint32) {
			a.send(stream, false, encoded(a.tb, opening("breast-cancer")))
			for i := range uint64(3 * window) {
				a.send(stream, false, encoded(a.tb, batch(i+1, breastCancer(1))))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldConfig{})
			warm := w.attack(t)
			warm.send(warm.open(), true, encoded(t, opening("breast-cancer")))
			eventually(t, "a stream ends", func() bool { return warm.ended.Load() == 1 })
			goroutines, before := runtime.NumGoroutine(), memory()
			attackers := make([]*attacker, connections)
			for i := range attackers {
				attackers[i] = w.attack(t, c.settings...)
				for range streamsOnOne {
					c.send(attackers[i], attackers[i].open())
				}
			}
			if c.ends {
				eventually(t, "the streams end", func() bool {
					n := int64(0)
					for _, a := range attackers {
						n += a.ended.Load()
					}
					return n == connections*streamsOnOne
				})
			}
			if !c.ends {
				eventually(t, "the streams are open", func() bool {
					return runtime.NumGoroutine()-goroutines >= connections*streamsOnOne*9/10 // some are grpc-go's workers
				})
			}
			// Whoever could send is done when nothing runs: also a stream whose results
			// are not read keeps one goroutine.
			eventually(t, "a goroutine a stream", func() bool {
				return runtime.NumGoroutine()-goroutines <= connections*(streamsOnOne+goroutinesOnOne)
			})
			each := (memory() - before) / (connections * streamsOnOne)
			t.Logf("a stream costs %d bytes", each)
			if each > idleBytes {
				t.Errorf("a stream costs %d bytes, more than %d", each, idleBytes)
			}
		})
	}
}

// TestStreamsThatAreReset opens streams, sends a batch and resets them, as fast as
// it can, and then the same without the batch.
func TestStreamsThatAreReset(t *testing.T) {
	w := newWorld(t, worldConfig{models: onnxtest.Spinning(t)})
	const connections, rounds_, most = 4, 500, 4 << 20
	run := func() {
		var wg sync.WaitGroup
		open, long := encoded(t, opening("spinning")), encoded(t, batch(1, rounds(forever)))
		for range connections {
			a := w.attack(t)
			wg.Go(func() {
				for i := range rounds_ {
					stream := a.open()
					if i%2 == 0 {
						a.send(stream, false, open)
						a.send(stream, false, long)
					}
					a.reset(stream)
				}
			})
		}
		wg.Wait()
	}
	quiet := func(goroutines int) func() bool {
		return func() bool { return runtime.NumGoroutine() <= goroutines+2*connections*goroutinesOnOne }
	}
	goroutines := runtime.NumGoroutine()
	run()
	eventually(t, "nothing of it is left", quiet(goroutines))
	before := memory()
	run()
	eventually(t, "nothing of it is left", quiet(goroutines))
	if grown := memory() - before; grown > most {
		t.Errorf("%d bytes are left of %d streams", grown, connections*rounds_)
	}
	// No model runs on, and others are served.
	spins(t, w.dial(t, w.address))
}

// forever is a number of rounds that nobody waits for.
const forever = 1 << 40

// TestReaderOfNothing sends as large batches as it can on many streams of one
// connection, and reads no result. What the server takes of each stream is its
// window.
func TestReaderOfNothing(t *testing.T) {
	const streams, floats = 8, 255 << 10 // to fill a buffer of grpc-go
	const message = 4 * floats
	w := newWorld(t, worldConfig{models: onnxtest.Spinning(t)})
	client := w.dial(t, w.address, grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var sent [streams]atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	before := memory()
	for i := range streams {
		stream := open(ctx, t, client, &inferencev1.StreamOpen{Model: "spinning"})
		wg.Go(func() {
			for sequence := uint64(1); ; sequence++ {
				// Its output is as large.
				err := stream.Send(batch(sequence, map[string]*inferencev1.Tensor{
					"n": {DataType: inferencev1.DataType_DATA_TYPE_INT64, Int64Values: []int64{1}},
					"x": {DataType: inferencev1.DataType_DATA_TYPE_FLOAT32, Shape: []int64{floats}, Raw: make([]byte, message)},
				}))
				if err != nil {
					return
				}
				sent[i].Add(1)
			}
		})
	}
	// Beyond the window a result is on its way, and a batch.
	const most = window + 3
	eventually(t, "every window is full", func() bool {
		full := true
		for i := range sent {
			n := sent[i].Load()
			full = full && n > window
			if n > most {
				t.Fatalf("of a stream that reads nothing %d batches were taken, more than %d", n, most)
			}
		}
		return full
	})
	// Of each batch its input, until it has run, and its output; and what is on its
	// way is there decoded and encoded, at both ends.
	if grown, bound := memory()-before, int64(streams*(2*most+4)*message); grown > bound {
		t.Errorf("grew by %d bytes, more than %d", grown, bound)
	} else {
		t.Logf("%d bytes for %d streams: %.1f messages each", grown, streams, float64(grown)/streams/message)
	}
}
