package main_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// What connections leave behind is nothing, however they end.
func TestConnectionsLeaveNothing(t *testing.T) {
	dir := shortDir(t)
	write(t, dir+"/policy.yaml", generous)
	s := startDev(t, dir)
	clinic, outsider := s.as(t, "clinic").source, s.as(t, "outsider").source
	connections := []struct {
		name string
		make func(context.Context) error
	}{
		{"a call", func(ctx context.Context) error {
			c, err := s.dial(clinic)
			if err != nil {
				return err
			}
			defer func() { _ = c.conn.Close() }()
			_, err = c.predict(ctx, breastCancer)
			return err
		}},
		{"a call that is refused", func(ctx context.Context) error {
			c, err := s.dial(clinic)
			if err != nil {
				return err
			}
			defer func() { _ = c.conn.Close() }()
			if id, err := c.predict(ctx, "absent"); id == "" {
				return fmt.Errorf("not refused: %w", err)
			}
			return nil
		}},
		{"a stream that is left", func(ctx context.Context) error {
			c, err := s.dial(clinic)
			if err != nil {
				return err
			}
			defer func() { _ = c.conn.Close() }()
			_, _, err = c.open(ctx, breastCancer)
			return err
		}},
		{"a handshake that is refused", func(ctx context.Context) error {
			c, err := s.dial(outsider)
			if err != nil {
				return err
			}
			defer func() { _ = c.conn.Close() }()
			if _, err := c.predict(ctx, breastCancer); err == nil {
				return fmt.Errorf("the outsider was answered")
			}
			return nil
		}},
		{"a handshake without a certificate", func(ctx context.Context) error {
			conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}}).DialContext(ctx, "tcp", s.address)
			if err != nil {
				return err
			}
			return conn.Close()
		}},
		{"nothing at all", func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
			if err != nil {
				return err
			}
			return conn.Close()
		}},
		{"no TLS", func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
			if err != nil {
				return err
			}
			_, _ = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
			return conn.Close()
		}},
	}
	before := s.metrics(t)
	const each = 300
	var made atomic.Int64
	var making sync.WaitGroup
	for range 8 {
		making.Go(func() {
			for i := made.Add(1); i <= int64(each*len(connections)); i = made.Add(1) {
				c := connections[i%int64(len(connections))]
				if err := c.make(t.Context()); err != nil {
					t.Errorf("%s: %v", c.name, err)
					return
				}
			}
		})
	}
	making.Wait()
	// A few may stay, such as the stacks of workers, but not one of each kind.
	eventually(t, func() error {
		after := s.metrics(t)
		for _, name := range []string{"go_goroutines", "process_open_fds"} {
			if was, is := before.value(name), after.value(name); is > was+each/6 {
				return fmt.Errorf("%s: %v before, %v after %d connections", name, was, is, each*len(connections))
			}
		}
		return nil
	})
}
