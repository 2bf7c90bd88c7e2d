package devauthority

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Workload is one entry of the authority's registration.
type Workload struct {
	// Name names the socket: lower-case letters, digits and dashes.
	Name string
	// ID is the SPIFFE ID that is issued. Every trust domain has a CA of its own.
	// A workload without an ID gets the answer "no identity issued".
	ID spiffeid.ID
	// DNSNames are DNS names in the SVID besides the ID.
	DNSNames []string
	// FederatesWith are other trust domains whose bundles the workload gets, and
	// whose workloads it can therefore verify.
	FederatesWith []spiffeid.TrustDomain
}

// trustDomains are those whose bundles the workload gets; its own comes first.
func (w *Workload) trustDomains() []spiffeid.TrustDomain {
	if w.ID.IsZero() {
		return nil
	}
	return append([]spiffeid.TrustDomain{w.ID.TrustDomain()}, w.FederatesWith...)
}

// clone shares nothing with w that can be changed.
func (w Workload) clone() Workload {
	w.DNSNames = slices.Clone(w.DNSNames)
	w.FederatesWith = slices.Clone(w.FederatesWith)
	return w
}

var workloadName = regexp.MustCompile(`^[a-z0-9-]+$`)

func (w *Workload) validate() error {
	switch {
	case !workloadName.MatchString(w.Name):
		return fmt.Errorf("workload name %q: only a-z, 0-9 and dashes", w.Name)
	case !w.ID.IsZero() && w.ID.Path() == "":
		return fmt.Errorf("workload %s: %s names a trust domain", w.Name, w.ID)
	}
	for _, td := range w.FederatesWith {
		if td.IsZero() {
			return fmt.Errorf("workload %s: federates with a trust domain without a name", w.Name)
		}
	}
	return nil
}

// DefaultWorkloads are those of `sallyport dev`: the server; clinic and
// ward-batch, which have roles; intern, which has none; partner, of a trust
// domain that the server's is federated with; and outsider, of one that it is
// not: it can verify the server but is unknown to it.
func DefaultWorkloads() []Workload {
	home := spiffeid.RequireTrustDomainFromString("sallyport.test")
	partner := spiffeid.RequireTrustDomainFromString("partner.test")
	elsewhere := spiffeid.RequireTrustDomainFromString("elsewhere.test")
	return []Workload{
		{
			Name: "server", ID: spiffeid.RequireFromPath(home, "/sallyport"), DNSNames: []string{"localhost"},
			FederatesWith: []spiffeid.TrustDomain{partner},
		},
		{Name: "clinic", ID: spiffeid.RequireFromPath(home, "/clinic/triage")},
		{Name: "ward-batch", ID: spiffeid.RequireFromPath(home, "/ward/batch")},
		{Name: "intern", ID: spiffeid.RequireFromPath(home, "/intern")},
		{
			Name: "partner", ID: spiffeid.RequireFromPath(partner, "/lab/batch"),
			FederatesWith: []spiffeid.TrustDomain{home},
		},
		{
			Name: "outsider", ID: spiffeid.RequireFromPath(elsewhere, "/outsider"),
			FederatesWith: []spiffeid.TrustDomain{home},
		},
	}
}
