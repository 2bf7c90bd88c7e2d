package interceptors_test

import (
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/interceptors"
)

// BenchmarkUnary is one call of one row over mTLS on loopback, client and server
// in one process, to a handler that only echoes: through bare grpc-go and through
// every gate. Compare the two of one run.
func BenchmarkUnary(b *testing.B) {
	service := echo{reply: &inferencev1.PredictResponse{Model: "breast-cancer"}}
	ca := identitytest.NewCA(b, "sallyport.test")
	for _, name := range []string{"bare", "gates"} {
		b.Run(name, func(b *testing.B) {
			creds, err := identity.NewServerCredentials(
				identitytest.NewSource(ca.SVID(b, identity.ServerPath), ca.Bundle()),
				identity.ServerConfig{TrustDomains: []spiffeid.TrustDomain{ca.TrustDomain()}, Refused: func(identity.Refusal) {}})
			if err != nil {
				b.Fatal(err)
			}
			options := []grpc.ServerOption{grpc.Creds(creds), grpc.NumStreamWorkers(32)}
			var chain *interceptors.Chain
			if name == "gates" {
				chain = benchChain(b, nil)
				options = append(options, chain.ServerOptions()...)
			}
			srv := grpc.NewServer(options...)
			var registrar grpc.ServiceRegistrar = srv
			if chain != nil {
				registrar = chain.Registrar(srv)
			}
			inferencev1.RegisterPredictionServiceServer(registrar, service)
			lis, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = srv.Serve(lis) }()
			b.Cleanup(srv.Stop)
			w := &world{ca: ca, address: lis.Addr().String()}
			client := inferencev1.NewPredictionServiceClient(w.dial(b, "/clinic/triage"))
			request := good()
			if _, err := client.Predict(b.Context(), request); err != nil {
				b.Fatal(err)
			}
			b.SetParallelism(8)
			b.ReportAllocs()
			before := cpuTime(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := client.Predict(b.Context(), request); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what the process has used of processors. It says more than the time
// that passed where others use them too.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
