package interceptors_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/credentials"
)

// rawRPC is an RPC by a caller that does not keep to gRPC's library: any path,
// any body.
type rawRPC struct {
	path string
	// headers are added to the usual ones, or replace them.
	headers map[string]string
	body    []byte
	// open leaves the caller's side open after the body.
	open bool
}

// frame puts the prefix of a gRPC message before data.
func frame(flag byte, data []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(data)))
	return append(out, data...)
}

// call makes the RPC on a connection of its own and returns the headers and
// trailers of the answer, merged; "reset" is the code of a reset stream.
func (r rawRPC) call(t *testing.T, address string, creds credentials.TransportCredentials) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tcp, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	conn, _, err := creds.ClientHandshake(ctx, "localhost", tcp)
	if err != nil {
		t.Fatal(err)
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}

	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	fields := [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", r.path},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	}
	for k, v := range r.headers {
		fields = append(fields, [2]string{k, v})
	}
	for _, f := range fields {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(framer.WriteSettings())
	check(framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	for rest := r.body; ; {
		n := min(len(rest), 16<<10)
		last := n == len(rest)
		check(framer.WriteData(1, last && !r.open, rest[:n]))
		if rest = rest[n:]; last {
			break
		}
	}
	answer := make(map[string]string)
	for {
		f, err := framer.ReadFrame()
		check(err)
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				check(framer.WriteSettingsAck())
			}
		case *http2.MetaHeadersFrame:
			for _, h := range f.Fields {
				answer[h.Name] = h.Value
			}
			if f.StreamEnded() {
				return answer
			}
		case *http2.RSTStreamFrame:
			answer["reset"] = f.ErrCode.String()
			return answer
		case *http2.GoAwayFrame:
			t.Fatalf("the connection was closed: %v", f.ErrCode)
		}
	}
}
