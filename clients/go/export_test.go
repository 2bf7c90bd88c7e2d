package sallyport

import (
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Generations is how many generations of connections are open.
func Generations(c *Client) int { return len(c.conns.generations()) }

// Retriable tells whether a call is made again.
var Retriable = retriable

// MarkExpired tells of the error of a handshake whether the server's SVID has
// expired, in its text.
var MarkExpired = markExpired

// OwnExpired is err as a call ends with it over a connection of an SVID that
// expires then.
func OwnExpired(err error, notAfter time.Time) error {
	g := &generation{names: new(names), servers: newServers(nil, nil), svid: &x509svid.SVID{Certificates: []*x509.Certificate{{NotAfter: notAfter}}}}
	return g.explain(err)
}
