package identity

import (
	"errors"
	"time"
)

// User is on whose behalf a workload calls, proved by a token that came with the
// call. It is immutable.
type User struct {
	// Issuer vouches for the user: the iss claim of an OIDC token, or
	// "spiffe://<trust domain>" for a JWT-SVID.
	Issuer string
	// Subject names the user to the issuer: the sub claim; for a JWT-SVID, the
	// SPIFFE ID of the workload.
	Subject string
	// Groups of the user; nil if the token does not say, as with what follows.
	Groups []string
	// Scopes of the token.
	Scopes []string
	// AMR are the methods by which the user authenticated (RFC 8176).
	AMR []string
	// ACR is the class of that authentication; empty if the token does not say.
	ACR string
	// NotAfter is when the token ends.
	NotAfter time.Time
}

// Expired tells whether the token has ended at now.
func (u *User) Expired(now time.Time) bool { return !now.Before(u.NotAfter) }

// Why a token does not prove a user. Everything else that is wrong with a token is
// ErrTokenInvalid.
var (
	// ErrTokenInvalid: the token is malformed, not genuine, or not meant for us.
	ErrTokenInvalid = errors.New("the token is not accepted")
	// ErrTokenExpired: the token was genuine and has ended.
	ErrTokenExpired = errors.New("the token has expired")
	// ErrKeysUnavailable: the issuer's keys cannot be had, so nothing is accepted
	// that they would have to verify. Later it may be.
	ErrKeysUnavailable = errors.New("the issuer's keys cannot be had")
)
