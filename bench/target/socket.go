package target

// ServerSocket is the socket of the Workload API that gives the server's identity:
// for servers that are set up elsewhere.
func (s *Site) ServerSocket() string { return s.authority.Socket("server") }

// Library is the path of ONNX Runtime's library, Sallyport that of the binary and
// Bench that of this program.
func (s *Site) Library() string   { return s.cfg.Library }
func (s *Site) Sallyport() string { return s.cfg.Sallyport }
func (s *Site) Bench() string     { return s.cfg.Bench }
