package interceptors

import (
	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/policy"
)

// shadow is what a policy that is not in force says about the decisions on a
// call.
type shadow struct {
	index                 *policy.Index // nil if there is none
	last                  policy.Decision
	wouldAllow, wouldDeny uint64
}

// compare asks the shadow policy what was decided by the one in force.
func (s *shadow) compare(index *policy.Index, request policy.Request, enforced policy.Decision) {
	if index == nil {
		return
	}
	s.index, s.last = index, decide(index, request)
	switch {
	case s.last.Allowed && !enforced.Allowed:
		s.wouldAllow++
	case !s.last.Allowed && enforced.Allowed:
		s.wouldDeny++
	}
}

// record fills rec, nil if there is no shadow policy.
func (s *shadow) record(rec *auditv1.Shadow) *auditv1.Shadow {
	if s.index == nil {
		return nil
	}
	rec.PolicyDigest = s.index.Digest()
	rec.WouldAllow, rec.WouldDeny = s.wouldAllow, s.wouldDeny
	rec.Decision, rec.Detail = s.last.Outcome.String(), clip(s.last.Detail, maxDetailBytes)
	return rec
}
