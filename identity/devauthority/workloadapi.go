package devauthority

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// service is the Workload API of one workload: X.509-SVIDs and their bundles.
// JWT-SVIDs and WIT-SVIDs are answered with Unimplemented, as the standard has
// it for a profile that is not there.
type service struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	authority *Authority
	workload  Workload
}

func newServer(s *service) *grpc.Server {
	server := grpc.NewServer(
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := checkHeader(ctx); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if err := checkHeader(stream.Context()); err != nil {
				return err
			}
			return handler(srv, stream)
		}),
	)
	workload.RegisterSpiffeWorkloadAPIServer(server, s)
	return server
}

// checkHeader asks for the header that the standard wants, because a program
// that was tricked into sending a request somewhere does not set it.
func checkHeader(ctx context.Context) error {
	if !slices.Equal(metadata.ValueFromIncomingContext(ctx, "workload.spiffe.io"), []string{"true"}) {
		return status.Error(codes.InvalidArgument, "security header missing from request: workload.spiffe.io")
	}
	return nil
}

var errNoIdentity = status.Error(codes.PermissionDenied, "no identity issued")

// FetchX509SVID sends an SVID and the bundles, and again with a new SVID each
// time half of its life has passed.
func (s *service) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if s.workload.ID.IsZero() {
		return errNoIdentity
	}
	ctx, a := stream.Context(), s.authority
	ticker := time.NewTicker(max(a.cfg.TTL/2, 1))
	defer ticker.Stop()
	for {
		own := a.cas[s.workload.ID.TrustDomain()]
		cert, key, err := own.issue(s.workload, a.cfg.Now(), a.cfg.TTL)
		if err != nil {
			a.cfg.Log.LogAttrs(ctx, slog.LevelError, "no SVID issued", slog.String("workload", s.workload.Name), slog.Any("error", err))
			return status.Error(codes.Internal, "no SVID issued: see the log of the authority")
		}
		federated := s.bundles()
		delete(federated, own.td.IDString())
		err = stream.Send(&workload.X509SVIDResponse{
			Svids: []*workload.X509SVID{{
				SpiffeId:    s.workload.ID.String(),
				X509Svid:    cert,
				X509SvidKey: key,
				Bundle:      own.bundle(),
			}},
			FederatedBundles: federated,
		})
		if err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// FetchX509Bundles sends the bundles that the workload verifies others with.
// They stay the same as long as the authority runs.
func (s *service) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	if s.workload.ID.IsZero() {
		return errNoIdentity
	}
	if err := stream.Send(&workload.X509BundlesResponse{Bundles: s.bundles()}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}

func (s *service) bundles() map[string][]byte {
	bundles := make(map[string][]byte)
	for _, td := range s.workload.trustDomains() {
		bundles[td.IDString()] = s.authority.cas[td].bundle()
	}
	return bundles
}
