package main

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// quotaPage is what /quota answers, and 'quota show --json' prints.
type quotaPage struct {
	// Store is where quotas are kept: "process" or "redis".
	Store string `json:"store"`
	// Away says that the store does not answer, and why: then what is left is what
	// this replica knows.
	Away     string         `json:"away,omitempty"`
	Accounts []quotaAccount `json:"accounts"`
	// LeftOut counts the accounts that match beyond those that were asked for.
	LeftOut int `json:"left_out"`
}

// quotaAccount is what one caller has used under its roles.
type quotaAccount struct {
	Caller string       `json:"caller"`
	Roles  []string     `json:"roles"`
	Limits []quotaLimit `json:"limits"`
}

// quotaLimit is one limit: what is used of it, and what is left.
type quotaLimit struct {
	// Limit is its name: "requests", "day-rows"; model time is in milliseconds.
	Limit string `json:"limit"`
	Most  int64  `json:"most"`
	Used  int64  `json:"used"`
	Left  int64  `json:"left"`
	// Held is the part of what is left that this replica holds as a lease.
	Held int64 `json:"held,omitempty"`
	// ResetSeconds is how long it is until all of it is there again; absent if it
	// is, or never will be.
	ResetSeconds float64 `json:"reset_seconds,omitempty"`
}

// limitsOf are the limits of a use that are set.
func limitsOf(u *quota.Use) []quotaLimit {
	var limits []quotaLimit
	for k, most := range u.Limits.Most() {
		if most == 0 || !u.Standing.Knows(quota.Kind(k)) {
			continue
		}
		l := quotaLimit{
			Limit: quota.Kind(k).String(), Most: most, Left: u.Standing.Left[k], Used: most - u.Standing.Left[k],
			Held: u.Held[k], ResetSeconds: u.Standing.Reset[k].Round(time.Millisecond).Seconds(),
		}
		if k == int(quota.KindDayTime) || k == int(quota.KindMonthTime) {
			l.Most, l.Left, l.Held = l.Most/1000, l.Left/1000, l.Held/1000
			l.Used = l.Most - l.Left
		}
		limits = append(limits, l)
	}
	if most := u.Limits.MaxStreams; most > 0 {
		limits = append(limits, quotaLimit{Limit: "streams", Most: most, Used: u.Streams, Left: max(0, most-u.Streams)})
	}
	return limits
}

const (
	// maxQuotaAccounts bounds what /quota and the metrics show.
	maxQuotaAccounts = 1000
	// defaultQuotaAccounts are shown unless more are asked for.
	defaultQuotaAccounts = 100
)

// serveQuota answers who has used how much: ?caller=, an ID or a prefix that ends
// with *, and ?limit=, how many accounts.
func (p *process) serveQuota(w http.ResponseWriter, r *http.Request) {
	n := defaultQuotaAccounts
	if text := r.FormValue("limit"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > maxQuotaAccounts {
			http.Error(w, "limit must be 1 to "+strconv.Itoa(maxQuotaAccounts), http.StatusBadRequest)
			return
		}
	}
	caller := r.FormValue("caller")
	uses, leftOut := p.limiter.Uses(n, func(a quota.Account) bool { return callerMatches(caller, a.Caller) })
	page := quotaPage{Store: "process", Accounts: make([]quotaAccount, 0, len(uses)), LeftOut: leftOut}
	if p.quotaStore != nil {
		page.Store = "redis"
		if err := p.limiter.Look(r.Context(), uses); err != nil {
			page.Away = err.Error()
		}
	}
	for i := range uses {
		page.Accounts = append(page.Accounts, quotaAccount{
			Caller: uses[i].Account.Caller, Roles: strings.Split(uses[i].Account.Key, ","), Limits: limitsOf(&uses[i]),
		})
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(page) // the operator may be gone
}

// callerMatches tells whether an ID is the pattern, or begins with it up to its *.
func callerMatches(pattern, caller string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok || pattern == "" {
		return strings.HasPrefix(caller, prefix)
	}
	return caller == pattern
}
