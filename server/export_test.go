package server

import "time"

// SetPatience replaces how long handlers that were cut off are waited for.
func (s *Server) SetPatience(d time.Duration) { s.patience = d }
