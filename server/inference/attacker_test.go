package inference_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// attacker is one connection of a caller that has an identity, and keeps to
// HTTP/2 but not to gRPC's library. It costs next to nothing itself, so that what
// the process grows by is the server.
type attacker struct {
	tb     testing.TB
	framer *http2.Framer
	next   uint32 // stream
	// messages counts the data frames that came, ended the streams that the
	// server has ended; refused the streams that it would not begin.
	messages, ended atomic.Int64
	writing         sync.Mutex // the reader acknowledges
}

// attack connects. The settings are what the attacker says of itself.
func (w *world) attack(tb testing.TB, settings ...http2.Setting) *attacker {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	tcp, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.address)
	if err != nil {
		tb.Fatal(err)
	}
	conn, _, err := w.clientCredentials(tb).ClientHandshake(ctx, "localhost", tcp)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		tb.Fatal(err)
	}
	a := &attacker{tb: tb, framer: http2.NewFramer(conn, conn), next: 1}
	a.check(a.framer.WriteSettings(settings...))
	read := make(chan struct{})
	go func() {
		defer close(read)
		a.read()
	}()
	tb.Cleanup(func() {
		_ = conn.Close()
		<-read
	})
	return a
}

// patience is how long the tests wait for what must come.
const patience = 3 * time.Minute

func (a *attacker) check(err error) {
	a.tb.Helper()
	if err != nil {
		a.tb.Fatal(err)
	}
}

// read takes what comes, and never lets the server send more of it.
func (a *attacker) read() {
	for {
		f, err := a.framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				a.writing.Lock()
				_ = a.framer.WriteSettingsAck()
				a.writing.Unlock()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				a.writing.Lock()
				_ = a.framer.WritePing(true, f.Data)
				a.writing.Unlock()
			}
		case *http2.DataFrame:
			a.messages.Add(1)
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				a.ended.Add(1)
			}
		case *http2.RSTStreamFrame:
			a.ended.Add(1)
		}
	}
}

// open begins a stream.
func (a *attacker) open() (stream uint32) {
	a.tb.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"},
		{":path", inferencev1.PredictionService_PredictStream_FullMethodName},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		a.check(enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})) // without state
	}
	stream = a.next
	a.next += 2
	a.writing.Lock()
	defer a.writing.Unlock()
	a.check(a.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}))
	return stream
}

// send sends bytes, which must fit into a frame.
func (a *attacker) send(stream uint32, end bool, data []byte) {
	a.tb.Helper()
	a.writing.Lock()
	defer a.writing.Unlock()
	a.check(a.framer.WriteData(stream, end, data))
}

func (a *attacker) reset(stream uint32) {
	a.tb.Helper()
	a.writing.Lock()
	defer a.writing.Unlock()
	a.check(a.framer.WriteRSTStream(stream, http2.ErrCodeCancel))
}

// encoded is a message as it goes over the wire.
func encoded(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(data))), data...)
}

func opening(model string) *inferencev1.PredictStreamRequest {
	return &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{Open: &inferencev1.StreamOpen{Model: model}}}
}

// eventually waits for a condition that must come about.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			tb.Fatalf("not within %v: %s\n%.20000s", patience, what, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// memory is what the process holds, heap and stacks.
func memory() int64 {
	runtime.GC()
	runtime.GC() // finalizers and pools need two
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
