package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity"
)

// requirement is what a binding asks of the user, each list sorted.
type requirement struct {
	issuer                             string
	subjects, groups, scopes, amr, acr []string
}

// newRequirement is nil for a binding that asks for no user. What is empty is
// refused: it would match what a token does not say.
func newRequirement(u *configv1.UserRequirement) (*requirement, error) {
	if u == nil {
		return nil, nil
	}
	if u.GetIssuer() == "" {
		return nil, errors.New("issuer: it must be set; groups and scopes mean something only together with it")
	}
	q := &requirement{issuer: u.GetIssuer()}
	var err error
	sorted := func(name string, values []string) []string {
		if slices.Contains(values, "") {
			err = errors.Join(err, fmt.Errorf("%s: an empty value", name))
		}
		return slices.Sorted(slices.Values(values))
	}
	q.subjects = sorted("subjects", u.GetSubjects())
	q.groups = sorted("groups", u.GetGroups())
	q.scopes = sorted("scopes", u.GetScopes())
	q.amr = sorted("amr", u.GetAmr())
	q.acr = sorted("acr", u.GetAcr())
	return q, err
}

// matches tells whether u is such a user; nil is not.
func (q *requirement) matches(u *identity.User) bool {
	return u != nil && u.Issuer == q.issuer &&
		(len(q.subjects) == 0 || has(q.subjects, u.Subject)) &&
		(len(q.acr) == 0 || has(q.acr, u.ACR)) &&
		(len(q.groups) == 0 || hasAny(q.groups, u.Groups)) &&
		hasAll(q.scopes, u.Scopes) && hasAll(q.amr, u.AMR)
}

// unmet says what of the requirement u does not meet; empty if it does. It does
// not repeat the user's claims.
func (q *requirement) unmet(u *identity.User) string {
	switch {
	case q.matches(u):
		return ""
	case u == nil:
		return "the call has no user"
	case u.Issuer != q.issuer:
		return fmt.Sprintf("the user's issuer is %q", u.Issuer)
	}
	var missing []string
	for _, part := range []struct {
		met  bool
		what string
	}{
		{len(q.subjects) == 0 || has(q.subjects, u.Subject), "the user is another"},
		{len(q.groups) == 0 || hasAny(q.groups, u.Groups), "the user is in none of the groups"},
		{hasAll(q.scopes, u.Scopes), "the token lacks a scope"},
		{hasAll(q.amr, u.AMR), "the user has not authenticated by all of amr"},
		{len(q.acr) == 0 || has(q.acr, u.ACR), "the authentication was of another class"},
	} {
		if !part.met {
			missing = append(missing, part.what)
		}
	}
	return strings.Join(missing, ", ")
}

// String says what is asked for: `issuer "https://idp.test", groups any of "a",
// "b"`. It is the same for requirements that ask for the same.
func (q *requirement) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "issuer %q", q.issuer)
	for _, part := range []struct {
		name   string
		values []string
	}{
		{"subject any of", q.subjects}, {"groups any of", q.groups}, {"scopes all of", q.scopes}, {"amr all of", q.amr}, {"acr any of", q.acr},
	} {
		for i, value := range part.values {
			if i == 0 {
				fmt.Fprintf(&b, ", %s", part.name)
			} else {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, " %q", value)
		}
	}
	return b.String()
}

func has(sorted []string, value string) bool {
	_, ok := slices.BinarySearch(sorted, value)
	return ok
}

// hasAny looks for each of values in the policy's list, so that a user of many
// groups costs no more than reading them once.
func hasAny(sorted, values []string) bool {
	return slices.ContainsFunc(values, func(v string) bool { return has(sorted, v) })
}

func hasAll(wanted, values []string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { return !slices.Contains(values, w) })
}

// trait is one claim by which a requirement can be found. Every user that a
// requirement matches has one of its traits.
type trait struct {
	claim         claim
	issuer, value string
}

type claim uint8

const (
	ofIssuer claim = iota
	ofSubject
	ofGroup
	ofScope
	ofAMR
	ofACR
)

// traits are those by which to find q: of a claim that says much about who the
// user is, if it asks for one.
func (q *requirement) traits() []trait {
	of := func(c claim, values []string) (traits []trait) {
		for _, v := range values {
			traits = append(traits, trait{c, q.issuer, v})
		}
		return traits
	}
	switch {
	case len(q.subjects) > 0:
		return of(ofSubject, q.subjects)
	case len(q.groups) > 0:
		return of(ofGroup, q.groups)
	case len(q.scopes) > 0:
		return of(ofScope, q.scopes[:1])
	case len(q.acr) > 0:
		return of(ofACR, q.acr)
	case len(q.amr) > 0:
		return of(ofAMR, q.amr[:1])
	default:
		return []trait{{ofIssuer, q.issuer, ""}}
	}
}

// userTraits calls yield with every trait of the user.
func userTraits(u *identity.User, yield func(trait)) {
	yield(trait{ofIssuer, u.Issuer, ""})
	yield(trait{ofSubject, u.Issuer, u.Subject})
	yield(trait{ofACR, u.Issuer, u.ACR})
	for _, v := range u.Groups {
		yield(trait{ofGroup, u.Issuer, v})
	}
	for _, v := range u.Scopes {
		yield(trait{ofScope, u.Issuer, v})
	}
	for _, v := range u.AMR {
		yield(trait{ofAMR, u.Issuer, v})
	}
}
