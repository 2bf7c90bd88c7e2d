package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Names of the rules.
const (
	RuleNew       = "new"
	RuleSilent    = "silent"
	RuleVolume    = "volume"
	RuleDenials   = "denials"
	RuleProbing   = "probing"
	RuleHours     = "hours"
	RuleAddresses = "addresses"
	RuleSerials   = "serials"
)

// The numbers that rules go by. Rules says them in words.
const (
	minPeriods    = 5 // before this one that must be known of a caller
	deviations    = 5
	minSpread     = 4  // calls
	minCalls      = 20 // for a share of denials, and for a past to compare with
	minSample     = 10 // calls of an earlier period whose share counts
	minDenials    = 5
	minShareSteps = 0.10
	probedModels  = 5
	namedModels   = 3
	maxNamed      = 40 // bytes of a name
	usualDays     = 7
	usualCalls    = 50
	minReturns    = 3
)

// Rules are how findings are made. Where "earlier periods" are said, those as long
// as the period and before it are meant, at most 30, and whole ones since the
// caller was first seen.
var Rules = []Rule{
	{RuleNew, "a caller without a call before the period in this log"},
	{RuleSilent, "a caller without a call in the period that called in at least 9 of 10 earlier periods, of which there must be 5"},
	{RuleVolume, "calls differ from the median of at least 5 earlier periods by more than 5 deviations, and are at least twice or at most half of it; the deviation is the median distance from the median, but at least a tenth of it and at least 4 calls"},
	{RuleDenials, "the share of calls denied is above the median share of at least 5 earlier periods with 10 calls or more, by more than 5 deviations and more than 10 points; at least 5 of at least 20 calls"},
	{RuleProbing, "denied at 5 or more different models"},
	{RuleHours, "calls in hours of the day (UTC) in which, and next to which, the caller never called before; its past must have 50 calls on 7 days"},
	{RuleAddresses, "one SVID came from more hosts within 10 minutes than any of the caller's before the period, and from 2 or more; calls of up to a minute"},
	{RuleSerials, "calls came back to an older SVID within 10 minutes after a newer one was used, 3 times or more, which never happened in at least 20 calls before the period; calls of up to a minute"},
}

// finder looks at callers one by one.
type finder struct {
	since, until int64
	length       int64
	found        []Finding
}

func (f *finder) add(rule string, c *caller, show []string, numbers map[string]float64, why string, a ...any) {
	f.found = append(f.found, Finding{
		Rule: rule, Caller: c.id, Why: fmt.Sprintf(why, a...), Numbers: numbers,
		Show: append([]string{"--kind", "call", "--caller", c.id}, show...),
	})
}

// look applies every rule to a caller. compared is whether the log has anything
// before the period.
func (f *finder) look(c *caller, compared bool) {
	f.probing(c)
	f.addresses(c)
	if !compared {
		return
	}
	if c.past.calls == 0 {
		f.add(RuleNew, c, f.during(), map[string]float64{"calls": float64(c.now.calls), "denied": float64(c.now.denied)},
			"%s, %d denied, the first at %s", calls(c.now.calls), c.now.denied, stamp(c.now.first))
		return
	}
	f.serials(c)
	f.hours(c)
	f.denials(c)
	if c.now.calls == 0 {
		f.silent(c)
	} else {
		f.volume(c)
	}
}

// earlier is how many whole periods before this one the caller is known for.
func (f *finder) earlier(c *caller) int {
	return int(min((f.since-c.past.first)/f.length, maxPeriods))
}

func (f *finder) silent(c *caller) {
	n, active := f.earlier(c), 0
	for _, p := range c.periods[:n] {
		if p.calls > 0 {
			active++
		}
	}
	if n < minPeriods || active*10 < n*9 {
		return
	}
	f.add(RuleSilent, c, []string{"--until", exact(f.since), "--last", "5"},
		map[string]float64{"active_periods": float64(active), "earlier_periods": float64(n)},
		"no call, but calls in %d of %d earlier periods, the last at %s", active, n, stamp(c.past.last))
}

func (f *finder) volume(c *caller) {
	n := f.earlier(c)
	if n < minPeriods {
		return
	}
	counts := make([]uint64, n)
	for i, p := range c.periods[:n] {
		counts[i] = p.calls
	}
	usual := median(counts)
	spread := max(deviation(counts, usual), usual/10, minSpread)
	far := max(c.now.calls, usual) - min(c.now.calls, usual)
	if far <= deviations*spread || c.now.calls < 2*usual && 2*c.now.calls > usual {
		return
	}
	f.add(RuleVolume, c, f.during(),
		map[string]float64{"calls": float64(c.now.calls), "median": float64(usual), "deviation": float64(spread), "earlier_periods": float64(n)},
		"%s; the median of %d earlier periods is %d, the deviation %d", calls(c.now.calls), n, usual, spread)
}

func (f *finder) denials(c *caller) {
	if c.now.calls < minCalls || c.now.denied < minDenials {
		return
	}
	var shares []float64
	for _, p := range c.periods[:f.earlier(c)] {
		if p.calls >= minSample {
			shares = append(shares, share(p.denied, p.calls))
		}
	}
	if len(shares) < minPeriods {
		return
	}
	usual, now := median(shares), share(c.now.denied, c.now.calls)
	if now-usual <= max(deviations*deviation(shares, usual), minShareSteps) {
		return
	}
	f.add(RuleDenials, c, append([]string{"--code", deniedCodes}, f.during()...),
		map[string]float64{"denied": float64(c.now.denied), "calls": float64(c.now.calls), "share": now, "median_share": usual, "earlier_periods": float64(len(shares))},
		"%d of %s denied, %.1f %%; the median of %d earlier periods is %.1f %%", c.now.denied, calls(c.now.calls), 100*now, len(shares), 100*usual)
}

func (f *finder) probing(c *caller) {
	denied := make(map[string]uint64)
	var total uint64
	for key, row := range c.rows {
		if row.denied > 0 && key.model != "" {
			denied[key.model] += row.denied
			total += row.denied
		}
	}
	if len(denied) < probedModels {
		return
	}
	names := make([]string, 0, len(denied))
	for name := range denied {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(denied[b], denied[a]), cmp.Compare(a, b)) })
	atLeast := ""
	if c.rest != nil {
		atLeast = "at least "
	}
	names = names[:namedModels]
	for i, name := range names {
		names[i] = strings.ToValidUTF8(name[:min(len(name), maxNamed)], "")
	}
	f.add(RuleProbing, c, append([]string{"--code", deniedCodes}, f.during()...),
		map[string]float64{"models": float64(len(denied)), "denied": float64(total)},
		"denied at %s%d models, %s, most often %s", atLeast, len(denied), calls(total), strings.Join(names, ", "))
}

func (f *finder) hours(c *caller) {
	if c.now.calls == 0 || len(c.days) < usualDays || c.past.calls < usualCalls {
		return
	}
	var outside span
	var at []string
	for h, now := range c.hoursNow {
		if now.calls == 0 || c.hours[h] > 0 || c.hours[(h+1)%24] > 0 || c.hours[(h+23)%24] > 0 {
			continue
		}
		if outside.calls == 0 || now.first < outside.first {
			outside.first = now.first
		}
		outside.calls += now.calls
		outside.last = max(outside.last, now.last)
		at = append(at, fmt.Sprintf("%02d", h))
	}
	if outside.calls == 0 {
		return
	}
	f.add(RuleHours, c, between(outside.first, outside.last),
		map[string]float64{"calls": float64(outside.calls), "hours": float64(len(at)), "past_calls": float64(c.past.calls)},
		"%s in the hours %s UTC, with none there or next to it in %s before", calls(outside.calls), strings.Join(at, ", "), calls(c.past.calls))
}

func (f *finder) addresses(c *caller) {
	now, past := &c.atOnce.now, &c.atOnce.past
	if now.hosts < 2 || now.hosts <= past.hosts {
		return
	}
	before := "no call before the period"
	if past.hosts > 0 {
		before = fmt.Sprintf("at most %d before the period", past.hosts)
	}
	f.add(RuleAddresses, c, append([]string{"--serial", now.serial}, between(now.first, now.last)...),
		map[string]float64{"hosts": float64(now.hosts), "past_hosts": float64(past.hosts)},
		"SVID %s came from %d hosts within 10 minutes, %s; %s", now.serial, now.hosts, strings.Join(now.hostNames, ", "), before)
}

func (f *finder) serials(c *caller) {
	now := &c.atOnce.now
	if now.returns < minReturns || c.past.calls < minCalls || c.atOnce.past.returns > 0 {
		return
	}
	f.add(RuleSerials, c, between(now.firstReturn, now.lastReturn),
		map[string]float64{"returns": float64(now.returns), "past_calls": float64(c.past.calls)},
		"%s came back to an older SVID while a newer one was used, last to %s beside %s; never in %s before",
		calls(now.returns), now.olderReturned, now.newerThere, calls(c.past.calls))
}

const deniedCodes = "PERMISSION_DENIED,UNAUTHENTICATED"

// during are the arguments that select the period.
func (f *finder) during() []string { return period(f.since, f.until, f.length > 0) }

func period(since, until int64, hasSince bool) []string {
	if !hasSince {
		return []string{"--until", exact(until)}
	}
	return []string{"--since", exact(since), "--until", exact(until)}
}

// between are the arguments that select from one moment to another, included.
func between(first, last int64) []string {
	return []string{"--since", exact(first), "--until", exact(last + 1)}
}

func exact(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339Nano) }
func stamp(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339) }

func calls(n uint64) string {
	if n == 1 {
		return "1 call"
	}
	return fmt.Sprintf("%d calls", n)
}

func share(part, whole uint64) float64 { return float64(part) / float64(whole) }
