package devauthority

import (
	"context"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// service is the Workload API of one workload. WIT-SVIDs are answered with
// Unimplemented, as the standard has it for a profile that is not there.
type service struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	authority *Authority
	name      string
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

// view is what the workload may know now. The channel is closed when that may
// have changed.
func (s *service) view() (view, <-chan struct{}, error) {
	now := s.authority.current.Load()
	v, ok := now.view(s.name)
	if !ok {
		return view{}, nil, errNoIdentity
	}
	return v, now.replaced, nil
}

// FetchX509SVID sends an SVID and the bundles, and again with a new SVID each
// time half of its life has passed, its entry or the CA has changed, or with the
// same SVID when a bundle has. It ends when the workload has no identity any
// more.
func (s *service) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	ctx, a := stream.Context(), s.authority
	half := max(a.cfg.TTL/2, 1)
	ticker := time.NewTicker(half)
	defer ticker.Stop()
	var (
		sent *workload.X509SVIDResponse
		as   view // of what was sent
	)
	for due := true; ; {
		v, replaced, err := s.view()
		if err != nil {
			return err
		}
		next := &workload.X509SVIDResponse{FederatedBundles: v.x509Bundles()}
		delete(next.FederatedBundles, v.own.ca.td.IDString())
		svid := &workload.X509SVID{SpiffeId: v.workload.ID.String(), Bundle: v.own.ca.bundle()}
		if due || !sameSVID(v, as) {
			svid.X509Svid, svid.X509SvidKey, err = v.own.ca.issue(v.workload, a.cfg.Now(), a.cfg.TTL)
			if err != nil {
				return s.internal(ctx, "no SVID issued", err)
			}
			ticker.Reset(half)
		} else {
			svid.X509Svid, svid.X509SvidKey = sent.Svids[0].X509Svid, sent.Svids[0].X509SvidKey
		}
		next.Svids = []*workload.X509SVID{svid}
		if !proto.Equal(next, sent) {
			if err := stream.Send(next); err != nil {
				return err
			}
		}
		sent, as = next, v
		select {
		case <-ticker.C:
			due = true
		case <-replaced:
			due = false
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

// sameSVID tells whether an SVID that was issued under one view is what would be
// issued under the other.
func sameSVID(a, b view) bool {
	return a.workload.ID == b.workload.ID && slices.Equal(a.workload.DNSNames, b.workload.DNSNames) && a.own.ca.cert.Equal(b.own.ca.cert)
}

// FetchX509Bundles sends the bundles that the workload verifies others with, and
// again when one has changed.
func (s *service) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return follow(s, stream, func(v view) (*workload.X509BundlesResponse, error) {
		return &workload.X509BundlesResponse{Bundles: v.x509Bundles()}, nil
	})
}

// follow sends what make makes of the workload's view, and again when it has
// changed, until the workload has no identity any more or goes away.
func follow[M any, P interface {
	*M
	proto.Message
}](s *service, stream grpc.ServerStreamingServer[M], make func(view) (P, error)) error {
	var sent P
	for {
		v, replaced, err := s.view()
		if err != nil {
			return err
		}
		next, err := make(v)
		if err != nil {
			return err
		}
		if sent == nil || !proto.Equal(next, sent) {
			if err := stream.Send((*M)(next)); err != nil {
				return err
			}
		}
		sent = next
		select {
		case <-replaced:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}

func (v *view) x509Bundles() map[string][]byte {
	bundles := make(map[string][]byte)
	for td, d := range v.domains {
		bundles[td.IDString()] = d.ca.bundle()
	}
	return bundles
}
