package sallyport

import (
	"crypto/x509"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
)

// Generations is how many generations of connections are open.
func Generations(c *Client) int { return len(c.conns.generations()) }

// LookUp makes cfg look names up there.
func LookUp(cfg Config, there *net.Resolver) Config {
	cfg.lookup = there
	return cfg
}

// Connected is how many servers the newest generation is connected to.
func Connected(c *Client) int { return c.conns.current.Load().servers.connected() }

// Bare is the connection that the client's calls go over now.
func Bare(c *Client) grpc.ClientConnInterface { return c.conns.current.Load().conn }

// Count is what the client does for each call that succeeds, beside making it.
func Count(c *Client) {
	if g, err := c.conns.take(); err == nil {
		c.conns.release(g)
		c.budget.earn()
	}
}

// Retriable tells whether a call is made again.
var Retriable = retriable

// MarkExpired tells of the error of a handshake whether the server's SVID has
// expired, in its text.
var MarkExpired = markExpired

// NewBudget is a client's budget, by a clock of the test's.
func NewBudget(cfg Budget, now func() time.Time) (earn func(), spend func() bool) {
	b := newBudget(cfg, now)
	return b.earn, b.spend
}

// OwnExpired is err as a call ends with it over a connection of an SVID that
// expires then.
func OwnExpired(err error, notAfter time.Time) error {
	g := &generation{names: new(names), servers: newServers(nil, nil), svid: &x509svid.SVID{Certificates: []*x509.Certificate{{NotAfter: notAfter}}}}
	return g.explain(err)
}
