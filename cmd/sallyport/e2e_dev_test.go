package main_test

import (
	"regexp"
	"testing"
)

// TestDevTTL demands that SVIDs rotate as often as dev is told.
func TestDevTTL(t *testing.T) {
	dir := shortDir(t)
	s := start(t, dir, "dev", "--dir", dir, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--svid-ttl", "2s")
	received := regexp.MustCompile(`(?s)identity received.*identity received.*identity received`)
	if _, err := s.stderr.await(received, s.ended); err != nil {
		t.Error(err)
	}
}
