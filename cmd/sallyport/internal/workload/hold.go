//go:build spire && linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/metadata"

	"github.com/sallyport/sallyport/identity"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// hold is a client that does not look after its connection: it opens a stream
// that stays idle and makes a call each 50 ms, on the one connection as long as
// it lives, then on whatever gRPC connects anew. Events: "stream opened", "stream
// ended", "disconnected", "identity" with each new SVID, "call" when
// a call ends otherwise than the one before.
func hold(ctx context.Context, f flags, in io.Reader, out *output) error {
	c, err := connect(ctx, f, out)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	background.Go(func() { c.source.follow(ctx, func() {}) })
	background.Go(func() {
		stream, err := openStream(ctx, c)
		if err == nil {
			out.write(Event{Kind: "stream opened"})
			_, err = stream.Recv()
		}
		out.write(outcome("stream ended", err))
	})
	background.Go(func() {
		var last Event
		for range ticks(ctx, 50*time.Millisecond) {
			err := predict(ctx, c)
			if e := outcome("call", err); ctx.Err() == nil && (e.Code != last.Code || e.Reason != last.Reason) {
				out.write(e)
				last = e
			}
		}
	})
	err = lines(in, func(string) {})
	cancel()
	background.Wait()
	return errors.Join(err, c.Close())
}

// call makes a call for each line of in, with the line as the user's token if it
// is not empty. Events: "identity" once it has one, "call".
func call(ctx context.Context, f flags, in io.Reader, out *output) error {
	c, err := connect(ctx, f, out)
	if err != nil {
		return err
	}
	c.source.tell()
	return errors.Join(lines(in, func(token string) {
		ctx := ctx
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		}
		out.write(outcome("call", predict(ctx, c)))
	}), c.Close())
}

// token gets a JWT-SVID. Event: "token".
func token(ctx context.Context, f flags, _ io.Reader, out *output) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr("unix://"+f.socket))
	if err != nil {
		return err
	}
	svid, err := client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: f.audience})
	if err == nil {
		out.write(Event{Kind: "token", Token: svid.Marshal(), NotAfter: svid.Expiry})
	}
	return errors.Join(err, client.Close())
}

// client is a source of SVIDs with a gRPC channel.
type client struct {
	*grpc.ClientConn
	source *source
}

// connect waits for the first SVID and makes a channel.
func connect(ctx context.Context, f flags, out *output) (*client, error) {
	s, err := openSource(ctx, f, out)
	if err != nil {
		return nil, err
	}
	conn, err := s.dial(f)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &client{conn, s}, nil
}

// Close closes channel and source.
func (c *client) Close() error { return errors.Join(c.ClientConn.Close(), c.source.Close()) }

// source tells of its SVIDs.
type source struct {
	*identity.Source
	out *output
}

func openSource(ctx context.Context, f flags, out *output) (*source, error) {
	s, err := identity.Open(ctx, identity.Config{WorkloadAPI: f.socket, StartTimeout: f.wait})
	if err != nil {
		return nil, err
	}
	return &source{s, out}, nil
}

// follow tells of each new SVID until ctx ends, of the first at once, and calls
// renewed for all but the first. Event: "identity".
func (s *source) follow(ctx context.Context, renewed func()) {
	serial := ""
	for {
		updated := s.Updated()
		if svid, err := s.GetX509SVID(); err == nil {
			before := serial
			if serial = svid.Certificates[0].SerialNumber.Text(16); serial != before {
				s.tell()
				if before != "" {
					renewed()
				}
			}
		}
		select {
		case <-updated:
		case <-ctx.Done():
			return
		}
	}
}

// tell tells of the newest SVID.
func (s *source) tell() {
	if svid, err := s.GetX509SVID(); err == nil {
		leaf := svid.Certificates[0]
		s.out.write(Event{Kind: "identity", Serial: leaf.SerialNumber.Text(16), NotAfter: leaf.NotAfter, Detail: svid.ID.String()})
	}
}

// dial makes a channel, which connects with the newest SVID. Event:
// "disconnected".
func (s *source) dial(f flags) (*grpc.ClientConn, error) {
	creds, err := identity.NewClientCredentials(s.Source, identity.DefaultServer())
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+f.server, grpc.WithTransportCredentials(creds), grpc.WithDisableRetry(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1, MaxDelay: 100 * time.Millisecond}}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			return &watched{Conn: conn, out: s.out}, nil
		}))
}

// watched tells when the other side has closed the connection after an answer.
type watched struct {
	net.Conn
	out      *output
	answered bool // used by the one goroutine that reads
	told     sync.Once
}

func (c *watched) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.answered = c.answered || n > 0
	if err != nil && c.answered && !errors.Is(err, net.ErrClosed) {
		c.told.Do(func() { c.out.write(Event{Kind: "disconnected", Detail: fmt.Sprint(err)}) })
	}
	return n, err
}

// ticks yields at each interval until ctx ends.
func ticks(ctx context.Context, interval time.Duration) func(yield func() bool) {
	return func(yield func() bool) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if !yield() {
				return
			}
		}
	}
}
