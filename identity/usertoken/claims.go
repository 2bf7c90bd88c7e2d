package usertoken

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sallyport/sallyport/identity"
)

const (
	// leeway is how far the issuer's clock may be ahead of ours. There is none for
	// the end of a token: what has expired by our clock has.
	leeway = 30 * time.Second
	// lastTime is the greatest NumericDate: the end of the year 9999.
	lastTime = 253402300799
)

// Bounds of claims: how many, and how many bytes each. A token beyond them is
// refused, never cut short. Those of policies are the same.
const (
	maxAudiences, maxAudience = 64, 2048
	maxSubject                = 2048
	maxGroups, maxGroup       = 512, 1024
	maxScopes, maxScope       = 256, 1024
	maxMethods, maxMethod     = 32, 256
	maxClass                  = 256
)

// claims is a decoded JSON object: strings, float64, bool, nil, []any and
// map[string]any.
type claims map[string]any

// text is a claim that is a string; "" if it is absent.
func (c claims) text(name string, most int) (string, error) {
	v, ok := c[name]
	if !ok {
		return "", nil
	}
	s, ok := v.(string)
	if !ok || !isText(s, most) {
		return "", invalid("%s is not a printable string of 1 to %d bytes", name, most)
	}
	return s, nil
}

// isText tells whether s can be a name: it goes into records and is compared with
// those in policies.
func isText(s string, most int) bool {
	// U+FFFD stands where there was no UTF-8, or half a surrogate pair: different
	// names became the same.
	return s != "" && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || r == utf8.RuneError
	})
}

// list is a claim that is a list of strings or one string; nil if it is absent.
func (c claims) list(name string, count, most int) ([]string, error) {
	v, ok := c[name]
	if !ok {
		return nil, nil
	}
	if s, ok := v.(string); ok {
		v = []any{s}
	}
	items, ok := v.([]any)
	if !ok || len(items) > count {
		return nil, invalid("%s is not a list of at most %d strings", name, count)
	}
	texts := make([]string, len(items))
	for i, item := range items {
		s, ok := item.(string)
		if !ok || !isText(s, most) {
			return nil, invalid("%s has what is not a printable string of 1 to %d bytes", name, most)
		}
		texts[i] = s
	}
	return texts, nil
}

// scopes are those of scope (RFC 8693), or of scp, as some issuers name it: a
// list, or one string with spaces between them.
func (c claims) scopes() ([]string, error) {
	var scopes []string
	for _, name := range []string{"scope", "scp"} {
		v, ok := c[name].(string)
		if !ok {
			list, err := c.list(name, maxScopes, maxScope)
			if err != nil {
				return nil, err
			}
			if list != nil {
				scopes = append(slices.Grow(scopes, 1), list...) // there, even if it has none
			}
			continue
		}
		scopes = slices.Grow(scopes, 1) // there, even if it has none
		for s := range strings.SplitSeq(v, " ") {
			if s != "" {
				scopes = append(scopes, s)
			}
		}
	}
	if len(scopes) > maxScopes || slices.ContainsFunc(scopes, func(s string) bool { return !isText(s, maxScope) }) {
		return nil, invalid("scope has more than %d, or what is not a printable string of at most %d bytes", maxScopes, maxScope)
	}
	return scopes, nil
}

// time is a claim that is a NumericDate, in whole seconds, rounded down; the zero
// time if it is absent.
func (c claims) time(name string) (time.Time, error) {
	v, ok := c[name]
	if !ok {
		return time.Time{}, nil
	}
	f, ok := v.(float64)
	if !ok || f < 1 || f > lastTime {
		return time.Time{}, invalid("%s is not a number of seconds since 1970", name)
	}
	return time.Unix(int64(f), 0), nil
}

// audience holds the aud claim to contain one of ours.
func (c claims) audience(ours []string) error {
	theirs, err := c.list("aud", maxAudiences, maxAudience)
	if err != nil {
		return err
	}
	if len(theirs) == 0 {
		return invalid("it has no aud")
	}
	if !slices.ContainsFunc(theirs, func(a string) bool { return slices.Contains(ours, a) }) {
		return invalid("it is meant for %s, not for us", clip(strings.Join(theirs, " ")))
	}
	return nil
}

// validity is when the token ends. It holds the token to exp, to iat if that is
// required, not to be from the future, and to live max at most: from iat, or
// from now where there is no iat. That the end has come is for the caller to
// say.
func (c claims) validity(now time.Time, most time.Duration, iatRequired bool) (time.Time, error) {
	exp, err := c.time("exp")
	if err != nil {
		return exp, err
	}
	iat, err := c.time("iat")
	if err != nil {
		return exp, err
	}
	nbf, err := c.time("nbf")
	if err != nil {
		return exp, err
	}
	begin := iat
	if begin.IsZero() {
		begin = now
	}
	switch {
	case exp.IsZero():
		return exp, invalid("it has no exp")
	case iat.IsZero() && iatRequired:
		return exp, invalid("it has no iat")
	case iat.After(now.Add(leeway)):
		return exp, invalid("it is from the future, by %v: iat", iat.Sub(now).Round(time.Second))
	case nbf.After(now.Add(leeway)):
		return exp, invalid("it is valid in %v only: nbf", nbf.Sub(now).Round(time.Second))
	case !iat.IsZero() && !exp.After(iat):
		return exp, invalid("it ends before it begins: exp, iat")
	case exp.Sub(begin) > most:
		return exp, invalid("it lives %v, longer than %v: exp, iat", exp.Sub(begin).Round(time.Second), most)
	}
	return exp, nil
}

// expired is the error of a token that was good until notAfter.
func expired(notAfter, now time.Time) error {
	return wrap(identity.ErrTokenExpired, "%v ago", now.Sub(notAfter).Round(time.Second))
}
