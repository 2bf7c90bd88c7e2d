package target

import "github.com/spiffe/go-spiffe/v2/workloadapi"

// What servers and clients need that are set up elsewhere.

// ServerSocket is the socket of the Workload API that gives the server's identity.
func (s *Site) ServerSocket() string { return s.authority.Socket("server") }

// Source is the identity of caller i.
func (s *Site) Source(i int) *workloadapi.X509Source { return s.sources[i] }

// Binaries are those of the configuration, with paths that are good everywhere.
func (s *Site) Binaries() Config { return s.cfg }
