// Package identity proves who is at the other end of a connection: it takes
// X.509-SVIDs from the SPIFFE Workload API and turns them into gRPC transport
// credentials that leave a Caller on every connection.
package identity

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Caller is the proved identity of the workload at the other end of a
// connection. It is immutable and shared by all calls of the connection.
type Caller struct {
	// ID is the SPIFFE ID of the peer's X.509-SVID.
	ID spiffeid.ID
	// Serial is the serial number of the SVID, lower-case hexadecimal.
	Serial string
	// NotAfter is when the identity ends: the earliest expiry in the verified
	// chain, the trust anchor left aside.
	NotAfter time.Time
}

// Expired tells whether the identity has ended at now.
func (c *Caller) Expired(now time.Time) bool { return !now.Before(c.NotAfter) }

// AuthInfo is what the credentials of this package leave on a connection, as a
// pointer: the peer's AuthInfo in gRPC's terms. It is immutable.
type AuthInfo struct {
	credentials.CommonAuthInfo
	// Caller is who is at the other end; on a client, the server. Never nil.
	Caller *Caller
	// Session is the live connection; nil on a client.
	Session *Session
	// State is the connection's TLS state when the handshake ended.
	State tls.ConnectionState
}

var _ credentials.AuthInfo = (*AuthInfo)(nil)

// AuthType names the protocol: "tls".
func (*AuthInfo) AuthType() string { return "tls" }

// CallerFromPeer returns the caller that the credentials of this package left
// on the connection of the call, or nil if it came over another kind.
func CallerFromPeer(ctx context.Context) *Caller {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(*AuthInfo)
	if !ok {
		return nil
	}
	return info.Caller
}
