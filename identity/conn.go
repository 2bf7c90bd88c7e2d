package identity

import (
	"net"
	"time"
)

// endingConn is a connection that ends with the identity that it was made with:
// idle, in the middle of a call or of a stream.
type endingConn struct {
	net.Conn
	timer *time.Timer
}

// endAt closes raw, on which conn rests, at a time. Not conn itself: closing TLS
// properly would wait for a peer that does not read.
func endAt(conn, raw net.Conn, end time.Time) net.Conn {
	return &endingConn{conn, time.AfterFunc(time.Until(end), func() { _ = raw.Close() })}
}

// Close closes the connection before its time.
func (c *endingConn) Close() error {
	c.timer.Stop()
	return c.Conn.Close()
}
