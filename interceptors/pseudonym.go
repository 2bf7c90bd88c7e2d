package interceptors

import (
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// subject is what names the user on record and in the log: the subject of the
// token, or its pseudonym. Nothing else that the gates write names a user.
func (c *Chain) subject(u *identity.User) string {
	if c.cfg.Pseudonymizer != nil {
		return c.cfg.Pseudonymizer.Pseudonym(u.Subject)
	}
	return clip(u.Subject, maxClaimBytes)
}

// detail is why the policy refused, for record and log. The error of a condition
// may show the subject, or what the condition made of it, so that no search for the
// subject would find it: where there are pseudonyms it is left out.
func (c *Chain) detail(u *identity.User, d policy.Decision) string {
	if c.cfg.Pseudonymizer == nil || u == nil || d.Impersonal == "" {
		return d.Detail
	}
	return d.Impersonal + " (why is left out, as it may show the user; 'sallyport policy explain' tells)"
}
