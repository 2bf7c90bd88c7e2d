package devauthority

import (
	"context"
	"log/slog"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

// FetchJWTSVID issues a JWT-SVID of the workload for the audience. A SPIFFE ID
// that the request asks for must be the workload's own.
func (s *service) FetchJWTSVID(ctx context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	v, _, err := s.view()
	if err != nil {
		return nil, err
	}
	if len(req.GetAudience()) == 0 || slices.Contains(req.GetAudience(), "") {
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	}
	if req.GetSpiffeId() != "" {
		id, err := spiffeid.FromString(req.GetSpiffeId())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "invalid requested SPIFFE ID: %v", err)
		}
		if id != v.workload.ID {
			return nil, errNoIdentity
		}
	}
	token, err := v.own.jwt.issue(v.workload.ID, req.GetAudience(), s.authority.cfg.Now(), s.authority.cfg.JWTTTL)
	if err != nil {
		return nil, s.internal(ctx, "no JWT-SVID issued", err)
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: v.workload.ID.String(), Svid: token}}}, nil
}

// FetchJWTBundles sends the JWKS of each trust domain whose JWT-SVIDs the
// workload can verify, and again when one has changed.
func (s *service) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return follow(s, stream, func(v view) (*workload.JWTBundlesResponse, error) {
		bundles := make(map[string][]byte)
		for td, d := range v.domains {
			jwks, err := d.jwt.bundle()
			if err != nil {
				return nil, s.internal(stream.Context(), "no JWT bundle", err)
			}
			bundles[td.IDString()] = jwks
		}
		return &workload.JWTBundlesResponse{Bundles: bundles}, nil
	})
}

// ValidateJWTSVID verifies a JWT-SVID for the workload, with the bundles that it
// has. The answer to a bad one does not repeat it.
func (s *service) ValidateJWTSVID(ctx context.Context, req *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	v, _, err := s.view()
	if err != nil {
		return nil, err
	}
	if req.GetAudience() == "" {
		return nil, status.Error(codes.InvalidArgument, "audience must be specified")
	}
	bundles := jwtbundle.NewSet()
	for td, d := range v.domains {
		jwks, err := d.jwt.bundle()
		if err != nil {
			return nil, s.internal(ctx, "no JWT bundle", err)
		}
		bundle, err := jwtbundle.Parse(td, jwks)
		if err != nil {
			return nil, s.internal(ctx, "no JWT bundle", err)
		}
		bundles.Add(bundle)
	}
	svid, err := jwtsvid.ParseAndValidate(req.GetSvid(), bundles, []string{req.GetAudience()})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims, err := structpb.NewStruct(svid.Claims)
	if err != nil {
		return nil, s.internal(ctx, "claims", err)
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}

// internal logs what went wrong and returns what the workload may know of it.
func (s *service) internal(ctx context.Context, what string, err error) error {
	s.authority.cfg.Log.LogAttrs(ctx, slog.LevelError, what, slog.String("workload", s.name), slog.Any("error", err))
	return status.Error(codes.Internal, what+": see the log of the authority")
}
