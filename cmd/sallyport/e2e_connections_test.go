package main_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// One workload cannot hold the connections of the server: beyond its bound it is
// refused in the handshake, with a record that says why, and others come in.
func TestConnectionsPerCaller(t *testing.T) {
	dir := newSite(t, "bounds: {max_connections: 8, max_connections_per_caller: 3}\n")
	write(t, dir+"/policy.yaml", strings.Replace(generous, "clinic/*", "*", 1))
	s := startServe(t, dir)
	var held []*caller
	for range 3 {
		c := s.as(t, "clinic")
		if _, err := c.predict(t.Context(), breastCancer); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	if _, err := s.as(t, "clinic").predict(t.Context(), breastCancer); status.Code(err) != codes.Unavailable {
		t.Errorf("a fourth connection: %v", err)
	}
	if _, err := s.as(t, "intern").predict(t.Context(), breastCancer); err != nil {
		t.Errorf("another workload: %v", err)
	}
	if _, err := held[0].predict(t.Context(), breastCancer); err != nil {
		t.Errorf("a connection that was there before: %v", err)
	}
	_ = held[1].conn.Close()
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := s.dial(held[1].source)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = c.conn.Close() })
		_, err = c.predict(ctx, breastCancer)
		return err
	})
	eventually(t, func() error {
		for _, r := range s.records(t) {
			if r.GetKind() == auditv1.Kind_KIND_HANDSHAKE && r.GetReason() == "TOO_MANY_CONNECTIONS" {
				const id = "spiffe://sallyport.test/clinic/triage"
				if r.GetClaimedId() != id || !strings.Contains(r.GetDetail(), id+" has 3 open") {
					t.Errorf("recorded %v", r)
				}
				return nil
			}
		}
		return errors.New("no record of the refused handshake")
	})
}
