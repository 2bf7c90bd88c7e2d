package main

import (
	"os"
	"os/signal"
	"syscall"
)

// serverSignals are what an operator tells a server; the zero value hears nothing.
// They are caught from notifyServerSignals on, without a moment in between at which
// one is lost or ends the process.
type serverSignals struct {
	// hangups reload policy and models.
	hangups chan os.Signal
	// stops are SIGINT and SIGTERM: the first, which ends the command's context too,
	// begins the drain, and the second ends it.
	stops chan os.Signal
}

// notifyServerSignals catches signals until release is called. Call it before anything
// that takes time: until then SIGHUP ends the process.
func notifyServerSignals() *serverSignals {
	s := &serverSignals{hangups: make(chan os.Signal, 1), stops: make(chan os.Signal, 2)}
	signal.Notify(s.hangups, syscall.SIGHUP)
	signal.Notify(s.stops, os.Interrupt, syscall.SIGTERM)
	return s
}

// release gives the signals their own effect back. It may be called again.
func (s *serverSignals) release() {
	signal.Stop(s.hangups)
	s.releaseStops()
}

// releaseStops lets the next SIGINT or SIGTERM end the process.
func (s *serverSignals) releaseStops() { signal.Stop(s.stops) }
