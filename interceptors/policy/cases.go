package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/proto/configfile"
)

// Cases are requests with the decisions that a policy must make on them.
type Cases struct {
	policy string
	cases  []testCase
}

type testCase struct {
	name    string
	request Request
	timed   bool // whether the request has a time of its own
	allow   bool
	roles   []string // that must allow it, sorted; not looked at if empty
}

// CaseResult is what became of a case.
type CaseResult struct {
	// Name is the name of the case.
	Name string `json:"name"`
	// Passed is whether the policy decides as expected.
	Passed bool `json:"passed"`
	// Expected and Decided are "allowed" or "refused", with roles or an outcome,
	// for people.
	Expected string `json:"expected"`
	Decided  string `json:"decided"`
	// Explanation is the whole story of the decision.
	Explanation Explanation `json:"explanation"`
}

// ParseCases reads cases written in YAML and checks them against the rules of
// their schema, and what the schema cannot say. The error joins all faults of
// the kind that it finds first, each with name and place.
func ParseCases(data []byte, name string) (*Cases, error) {
	p := &configv1.PolicyCases{}
	if err := configfile.Parse(name, data, p); err != nil {
		return nil, err
	}
	c := &Cases{policy: p.GetPolicy()}
	var faults []error
	for i, pc := range p.GetCases() {
		tc, err := newCase(pc)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: cases[%d] %q: %w", name, i, pc.GetName(), err))
		}
		c.cases = append(c.cases, tc)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return c, nil
}

func newCase(p *configv1.PolicyCase) (testCase, error) {
	c := testCase{
		name:  p.GetName(),
		allow: p.GetExpect() == configv1.Expectation_ALLOW,
		roles: slices.Sorted(slices.Values(p.GetRoles())),
		timed: p.GetTime() != nil,
		request: Request{
			Action: Action(p.GetAction()), //nolint:gosec // the schema has defined values only
			Model:  p.GetModel(),
			Rows:   int64(p.GetRows()), //nolint:gosec // the schema bounds it
		},
	}
	var err error
	var faults []error
	if c.request.Caller, err = spiffeid.FromString(p.GetCaller()); err != nil {
		faults = append(faults, fmt.Errorf("caller: %w", err))
	}
	if p.GetAddress() != "" {
		if c.request.Address, err = netip.ParseAddr(p.GetAddress()); err != nil {
			faults = append(faults, fmt.Errorf("address: %w", err))
		}
	}
	if u := p.GetUser(); u != nil {
		c.request.User = &identity.User{
			Issuer: u.GetIssuer(), Subject: u.GetSubject(), Groups: u.GetGroups(),
			Scopes: u.GetScopes(), AMR: u.GetAmr(), ACR: u.GetAcr(),
		}
	}
	switch introspect := c.request.Action == Introspect; {
	case introspect && c.request.Model != "":
		faults = append(faults, fmt.Errorf("model: %s is not about a model", c.request.Action))
	case !introspect && c.request.Model == "":
		faults = append(faults, fmt.Errorf("model: %s is about a model", c.request.Action))
	}
	if c.timed {
		if err := p.GetTime().CheckValid(); err != nil {
			faults = append(faults, fmt.Errorf("time: %w", err))
		}
		c.request.Time = p.GetTime().AsTime()
	}
	if !c.allow && len(c.roles) > 0 {
		faults = append(faults, errors.New("roles: no role allows what is expected to be refused"))
	}
	return c, errors.Join(faults...)
}

// Policy is the path of the policy as the file of the cases has it.
func (c *Cases) Policy() string { return c.policy }

// Run decides each case by the policy, in their order. Cases that have no time
// are decided at now.
func (c *Cases) Run(ix *Index, now time.Time) []CaseResult {
	results := make([]CaseResult, 0, len(c.cases))
	for _, tc := range c.cases {
		r := tc.request
		if !tc.timed {
			r.Time = now
		}
		e := ix.Explain(r)
		result := CaseResult{
			Name: tc.name, Passed: e.Allowed == tc.allow, Expected: "refused",
			Decided: fmt.Sprintf("refused (%s)", e.Outcome), Explanation: e,
		}
		if tc.allow {
			result.Expected = "allowed" + byRoles(tc.roles)
		}
		if e.Allowed {
			result.Decided = "allowed" + byRoles(e.Grant.Roles)
			if len(tc.roles) > 0 && !slices.Equal(tc.roles, e.Grant.Roles) {
				result.Passed = false
			}
		}
		results = append(results, result)
	}
	return results
}

func byRoles(roles []string) string {
	if len(roles) == 0 {
		return ""
	}
	return " by " + strings.Join(roles, " and ")
}
