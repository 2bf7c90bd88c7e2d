package interceptors

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/sallyport/sallyport/identity"
)

// UserVerifier proves by a token on whose behalf a call is made. Its errors wrap
// one of identity.ErrTokenInvalid, ErrTokenExpired and ErrKeysUnavailable and
// never hold the token. It may block until ctx ends.
type UserVerifier interface {
	Verify(ctx context.Context, token string) (*identity.User, error)
}

// identify refuses a call on a connection on which no handshake left a caller,
// and one whose user is not proved.
func (c *Chain) identify(call *Call) error {
	if call.Caller == nil {
		return Refuse(IdentityMissing, "the connection has no AuthInfo of package identity")
	}
	if err := c.identified(call, nil); err != nil {
		return err
	}
	return c.identifyUser(call)
}

// identified refuses a caller or user whose identity has ended since.
func (c *Chain) identified(call *Call, _ *Message) error {
	if refusal := call.forced(); refusal != nil {
		return refusal
	}
	now := c.cfg.Now()
	if call.Caller.Expired(now) {
		return Refuse(IdentityExpired, "the SVID %s of %s ended at %s", call.Caller.Serial, call.Caller.ID, call.Caller.NotAfter)
	}
	if call.User == nil {
		return nil
	}
	// The verifier remembers the token, but asks whether its key still holds.
	if _, refusal := c.verifyToken(call.ctx, call.token); refusal != nil {
		return refusal
	}
	if call.User.Expired(now) {
		return c.userExpired(call.User)
	}
	return nil
}

// identifyUser proves on whose behalf the call is made, if it brings a token. It
// ends with the token.
func (c *Chain) identifyUser(call *Call) error {
	values := metadata.ValueFromIncomingContext(call.ctx, "authorization")
	if len(values) == 0 {
		return nil
	}
	if c.cfg.Users == nil {
		return Refuse(TokenInvalid, "the call brings a token, and identity.users is not configured")
	}
	if len(values) > 1 {
		return Refuse(TokenInvalid, "%d values of authorization", len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Refuse(TokenInvalid, "authorization is not a bearer token")
	}
	user, refusal := c.verifyToken(call.ctx, token)
	if refusal != nil {
		return refusal
	}
	call.User = user
	call.mu.Lock()
	call.token = token
	call.mu.Unlock()
	call.userEnd = time.AfterFunc(user.NotAfter.Sub(c.cfg.Now()), func() { call.end(c.userExpired(user)) })
	return nil
}

// verifyToken is whom the token proves, or why it proves nobody.
func (c *Chain) verifyToken(ctx context.Context, token string) (*identity.User, *Refusal) {
	user, err := c.cfg.Users.Verify(ctx, token)
	switch {
	case err == nil:
		return user, nil
	case errors.Is(err, identity.ErrTokenExpired):
		return nil, &Refusal{Reason: TokenExpired, Cause: err}
	case errors.Is(err, identity.ErrKeysUnavailable):
		return nil, &Refusal{Reason: TokenUnverified, Cause: err}
	}
	return nil, &Refusal{Reason: TokenInvalid, Cause: err}
}

func (c *Chain) userExpired(u *identity.User) *Refusal {
	return Refuse(TokenExpired, "the token of %s, issued by %s, ended at %s", c.subject(u), clip(u.Issuer, maxClaimBytes), u.NotAfter)
}
