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

// record is what the record says of it, with that detail of its last decision; nil
// if there is no shadow policy.
func (s *shadow) record(detail string) *auditv1.Shadow {
	if s.index == nil {
		return nil
	}
	return &auditv1.Shadow{
		PolicyDigest: s.index.Digest(),
		WouldAllow:   s.wouldAllow,
		WouldDeny:    s.wouldDeny,
		Decision:     s.last.Outcome.String(),
		Detail:       clip(detail, maxDetailBytes),
	}
}
