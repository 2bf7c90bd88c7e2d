package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/server"
)

// Refused handshakes cost whoever makes them next to nothing. Past this many a
// second they are counted, and the next record says how many there were: else
// a stranger could fill the disk.
const (
	handshakeRecords = 20
	handshakeBurst   = 500
)

// maxHandshakeDetail bounds a text that holds names the peer chose.
const maxHandshakeDetail = 1 << 10

// Reasons on record of handshakes alone.
const (
	handshakeUnfinished = "HANDSHAKE_UNFINISHED"
	serverRejected      = "SERVER_REJECTED"
	identityRejected    = "IDENTITY_REJECTED"
	tooManyConnections  = "TOO_MANY_CONNECTIONS"
)

// handshakes records connections that did not come to be.
type handshakes struct {
	audit   *audit.Log
	metrics *server.Metrics
	log     *slog.Logger
	limit   *rate.Limiter
	skipped atomic.Uint64
}

func newHandshakes(log *audit.Log, metrics *server.Metrics, logger *slog.Logger) *handshakes {
	return &handshakes{audit: log, metrics: metrics, log: logger, limit: rate.NewLimiter(handshakeRecords, handshakeBurst)}
}

// refused is told by the credentials of each refused handshake. It does not
// block.
func (h *handshakes) refused(r identity.Refusal) {
	h.metrics.HandshakeRefused()
	if !h.limit.Allow() {
		h.skipped.Add(1)
		return
	}
	detail := r.Err.Error()
	claimed := ""
	if !r.Claimed.IsZero() {
		claimed = r.Claimed.String()
		detail = "claimed " + r.Claimed.String() + ": " + detail
	}
	if n := h.skipped.Swap(0); n > 0 {
		detail = fmt.Sprintf("after %d more that were not recorded: %s", n, detail)
	}
	rec := &auditv1.Record{
		Kind:        auditv1.Kind_KIND_HANDSHAKE,
		Time:        timestamppb.Now(),
		PeerAddress: r.Peer.String(),
		Code:        uint32(codes.Unauthenticated),
		Reason:      handshakeReason(r),
		ClaimedId:   claimed,
		Detail:      strings.ToValidUTF8(detail[:min(len(detail), maxHandshakeDetail)], "?"),
	}
	attrs := []any{slog.String("peer", rec.GetPeerAddress()), slog.String("reason", rec.GetReason()), slog.String("detail", rec.GetDetail())}
	if err := h.audit.Enqueue(rec); err != nil {
		// The connection is refused all the same.
		h.log.Error("handshake refused and not recorded", append(attrs, slog.Any("error", err))...)
		return
	}
	h.log.Info("handshake refused", attrs...)
}

// blockedError is why a verified caller was not let in.
type blockedError struct{ detail string }

func (e *blockedError) Error() string { return e.detail }

// handshakeReason is the reason on record. A peer that just left, as a health
// check over bare TCP does, did not finish; one that sent an alert does not accept
// the server; all others were rejected.
func handshakeReason(r identity.Refusal) string {
	var invalid x509.CertificateInvalidError
	var blocked *blockedError
	var alert *net.OpError
	switch {
	case errors.As(r.Err, &blocked):
		return string(interceptors.CallerBlocked)
	case errors.Is(r.Err, identity.ErrTooManyConnections):
		return tooManyConnections
	case errors.As(r.Err, &invalid) && invalid.Reason == x509.Expired && time.Now().After(invalid.Cert.NotAfter):
		return string(interceptors.IdentityExpired)
	case errors.Is(r.Err, io.EOF), errors.Is(r.Err, io.ErrUnexpectedEOF), errors.Is(r.Err, os.ErrDeadlineExceeded), errors.Is(r.Err, syscall.ECONNRESET):
		return handshakeUnfinished
	case errors.As(r.Err, &alert) && alert.Op == "remote error":
		return serverRejected
	case r.Claimed.IsZero():
		return string(interceptors.IdentityMissing)
	}
	return identityRejected
}
