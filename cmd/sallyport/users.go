package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity/usertoken"
	"github.com/sallyport/sallyport/interceptors"
)

// openUsers makes what verifies users' tokens; nil if the configuration names
// nobody who vouches for users.
func openUsers(ctx context.Context, cfg *configv1.Users, bundles jwtbundle.Source, log *slog.Logger) (*usertoken.Verifier, error) {
	if cfg == nil {
		return nil, nil //nolint:nilnil // none is wanted
	}
	c := usertoken.Config{MaxLifetime: cfg.GetMaxLifetime().AsDuration(), Log: log}
	for _, issuer := range cfg.GetOidc() {
		c.OIDC = append(c.OIDC, usertoken.OIDC{
			Issuer:          issuer.GetIssuer(),
			Audiences:       issuer.GetAudiences(),
			Algorithms:      issuer.GetAlgorithms(),
			JWKSURL:         issuer.GetJwksUrl(),
			JWKSFile:        issuer.GetJwksFile(),
			CAFile:          issuer.GetCaFile(),
			GroupsClaim:     issuer.GetGroupsClaim(),
			RefreshInterval: issuer.GetRefreshInterval().AsDuration(),
			MaxKeyAge:       issuer.GetMaxKeyAge().AsDuration(),
		})
	}
	if j := cfg.GetJwtSvid(); j != nil {
		c.JWTSVID = &usertoken.JWTSVID{Audiences: j.GetAudiences(), Bundles: bundles}
		for _, name := range j.GetTrustDomains() {
			td, err := spiffeid.TrustDomainFromString(name)
			if err != nil {
				return nil, fmt.Errorf("jwt_svid.trust_domains: %w", err)
			}
			c.JWTSVID.TrustDomains = append(c.JWTSVID.TrustDomains, td)
		}
	}
	return usertoken.New(ctx, c)
}

// knowIssuers notes whose tokens are taken, to say later what keeps them out.
func (p *process) knowIssuers(cfg *configv1.Users) {
	for _, issuer := range cfg.GetOidc() {
		p.issuers = append(p.issuers, issuer.GetIssuer())
	}
	for _, name := range cfg.GetJwtSvid().GetTrustDomains() {
		if td, err := spiffeid.TrustDomainFromString(name); err == nil { // else openUsers says so
			p.tokenDomains = append(p.tokenDomains, td)
			p.issuers = append(p.issuers, td.IDString())
		}
	}
}

// jwtBundles are those of the process's source of identities, which is opened
// after the verifier is made.
type jwtBundles struct{ p *process }

func (b jwtBundles) GetJWTBundleForTrustDomain(td spiffeid.TrustDomain) (*jwtbundle.Bundle, error) {
	return b.p.source.GetJWTBundleForTrustDomain(td)
}

// userVerifier is nil, not a nil pointer in an interface, if there is none.
func (p *process) userVerifier() interceptors.UserVerifier {
	if p.users == nil {
		return nil
	}
	return p.users
}
