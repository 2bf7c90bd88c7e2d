package report_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit/report"
)

// since and until are the period of the tests: a day.
var (
	since = time.Date(2030, 1, 31, 0, 0, 0, 0, time.UTC)
	until = since.Add(24 * time.Hour)
)

const caller = "spiffe://sallyport.test/clinic/triage"

// call is a call some time after the period began: before it, if that is negative.
func call(after time.Duration, change ...func(*auditv1.Record)) *auditv1.Record {
	r := &auditv1.Record{
		Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.New(since.Add(after)), Duration: durationpb.New(time.Millisecond),
		Caller: &auditv1.Caller{SpiffeId: caller, SvidSerial: "a"}, PeerAddress: "192.0.2.1:5000",
		Action: "PREDICT", Model: "digits", CallId: "call",
	}
	for _, f := range change {
		f(r)
	}
	return r
}

func by(id string) func(*auditv1.Record)   { return func(r *auditv1.Record) { r.Caller.SpiffeId = id } }
func model(m string) func(*auditv1.Record) { return func(r *auditv1.Record) { r.Model = m } }
func serial(s string) func(*auditv1.Record) {
	return func(r *auditv1.Record) { r.Caller.SvidSerial = s }
}
func peer(a string) func(*auditv1.Record) { return func(r *auditv1.Record) { r.PeerAddress = a } }
func took(d time.Duration) func(*auditv1.Record) {
	return func(r *auditv1.Record) { r.Duration = durationpb.New(d) }
}
func denied(r *auditv1.Record) { r.Code, r.Reason = 7, "POLICY_DENIED" }

// day are n calls of a day of the caller, from nine o'clock on, a second apart;
// day 0 is the period.
func day(d, n int, change ...func(*auditv1.Record)) []*auditv1.Record {
	out := make([]*auditv1.Record, n)
	for i := range out {
		out[i] = call(time.Duration(d)*24*time.Hour+9*time.Hour+time.Duration(i)*time.Second, change...)
	}
	return out
}

// days are as many calls on each of the days from one to another.
func days(from, to, n int, change ...func(*auditv1.Record)) []*auditv1.Record {
	var out []*auditv1.Record
	for d := from; d <= to; d++ {
		out = append(out, day(d, n, change...)...)
	}
	return out
}

func count(t testing.TB, records ...*auditv1.Record) *report.Report {
	t.Helper()
	c, err := report.New(report.Config{Since: since, Until: until})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		c.Add(r)
	}
	return c.Report()
}

func TestUnusual(t *testing.T) {
	usual := days(-10, -1, 100)
	other := day(-10, 1, by("spiffe://sallyport.test/other"))
	probe := func(models int) []*auditv1.Record {
		out := slices.Concat(usual, day(0, 90))
		for i := range models {
			out = append(out, call(10*time.Hour, model(fmt.Sprint("secret-", i)), denied))
		}
		return out
	}
	// turns are calls of two SVIDs in turn, from the given day on.
	turns := func(d, n int, apart time.Duration) []*auditv1.Record {
		var out []*auditv1.Record
		for i := range n {
			out = append(out, call(time.Duration(d)*24*time.Hour+9*time.Hour+time.Duration(i)*apart, serial([]string{"a", "b"}[i%2])))
		}
		return out
	}
	hosts := func(d int, apart time.Duration, change ...func(*auditv1.Record)) []*auditv1.Record {
		at := time.Duration(d)*24*time.Hour + 9*time.Hour
		return []*auditv1.Record{
			call(at, append(change, serial("s"))...),
			call(at+apart, append(change, serial("s"), peer("198.51.100.7:1"))...),
		}
	}
	for _, tt := range []struct {
		name    string
		records []*auditv1.Record
		want    string // rule and reason of the findings about the caller
	}{
		{"as ever", slices.Concat(usual, day(0, 100)), ""},
		{"new", slices.Concat(other, day(0, 2), day(0, 1, denied)), "new: 3 calls, 1 denied, the first at 2030-01-31T09:00:00Z"},
		{"new, but so is the log", day(0, 3), ""},
		{"called once, long ago", slices.Concat(day(-200, 1), day(0, 3)), ""},

		{"silent", usual, "silent: no call, but calls in 9 of 9 earlier periods, the last at 2030-01-30T09:01:39Z"},
		{"silent on a day as on two of seven before", slices.Concat(days(-14, -10, 5), days(-7, -3, 5)), ""},
		{"silent after too short a past", days(-5, -1, 100), ""},

		{"twice and a half the volume", slices.Concat(usual, day(0, 250)), "volume: 250 calls; the median of 9 earlier periods is 100, the deviation 10"},
		{"less than twice the volume", slices.Concat(usual, day(0, 199)), ""},
		{"a third of the volume", slices.Concat(usual, day(0, 33)), "volume: 33 calls; the median of 9 earlier periods is 100, the deviation 10"},
		{"a volume that varies as ever", slices.Concat(day(-6, 50), day(-5, 100), day(-4, 150), day(-3, 200), day(-2, 250), day(-1, 150), day(0, 400)), ""},
		{"few calls more", slices.Concat(days(-10, -1, 2), day(0, 20)), ""},
		{"one burst in the past hides nothing", slices.Concat(days(-10, -2, 100), day(-1, 5000), day(0, 5000)), "volume: 5000 calls; the median of 9 earlier periods is 100, the deviation 10"},
		{"much volume after too short a past", slices.Concat(days(-5, -1, 10), day(0, 5000)), ""},

		{"denied more often", slices.Concat(usual, day(0, 80), day(0, 20, denied)), "denials: 20 of 100 calls denied, 20.0 %; the median of 9 earlier periods is 0.0 %"},
		{"denied as often as ever", slices.Concat(usual, days(-10, -1, 30, denied), day(0, 100), day(0, 40, denied)), ""},
		{"denied now and then", slices.Concat(usual, day(0, 91), day(0, 9, denied)), ""},

		{"denied at five models", probe(5), "probing: denied at 5 models, 5 calls, most often secret-0, secret-1, secret-2"},
		{"denied at four models", probe(4), ""},

		{"at night", slices.Concat(usual, day(0, 100), []*auditv1.Record{call(3 * time.Hour), call(4 * time.Hour)}), "hours: 2 calls in the hours 03, 04 UTC, with none there or next to it in 1000 calls before"},
		{"an hour early", slices.Concat(usual, day(0, 100), []*auditv1.Record{call(8 * time.Hour)}), ""},
		{"at night after six days", slices.Concat(days(-6, -1, 100), day(0, 100), []*auditv1.Record{call(3 * time.Hour)}), ""},

		{"one SVID from two hosts", slices.Concat(usual, day(0, 100), hosts(0, time.Minute)), "addresses: SVID s came from 2 hosts within 10 minutes, 192.0.2.1, 198.51.100.7; at most 1 before the period"},
		{"one SVID from two hosts, one after the other", slices.Concat(usual, day(0, 100), hosts(0, 11*time.Minute)), ""},
		{"one SVID from two hosts as ever", slices.Concat(usual, hosts(-3, time.Minute), day(0, 100), hosts(0, time.Minute)), ""},
		{"one SVID from two hosts on long streams", slices.Concat(usual, day(0, 100), hosts(0, time.Minute, took(2*time.Minute))), ""},
		{"one SVID from two hosts where the log begins", hosts(0, time.Minute), "addresses: SVID s came from 2 hosts within 10 minutes, 192.0.2.1, 198.51.100.7; no call before the period"},

		{"two SVIDs in turn", slices.Concat(usual, day(0, 90), turns(0, 9, time.Minute)), "serials: 3 calls came back to an older SVID while a newer one was used, last to a beside b; never in 1000 calls before"},
		{"two SVIDs in turn as ever", slices.Concat(usual, turns(-2, 6, time.Minute), day(0, 90), turns(0, 9, time.Minute)), ""},
		{"two SVIDs in turn, hours apart", slices.Concat(usual, day(0, 90), turns(0, 4, 30*time.Minute)), ""},
		{"a rotation", slices.Concat(usual, day(0, 50), day(0, 50, serial("b"))), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			slices.SortStableFunc(tt.records, func(a, b *auditv1.Record) int { return a.GetTime().AsTime().Compare(b.GetTime().AsTime()) })
			var got []string
			for _, f := range count(t, tt.records...).Unusual {
				if f.Caller == caller {
					got = append(got, f.Rule+": "+f.Why)
				}
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The arguments of a finding select the records behind it.
func TestFindingShows(t *testing.T) {
	r := count(t, slices.Concat(days(-10, -1, 100), day(0, 100), []*auditv1.Record{call(3 * time.Hour), call(4*time.Hour + time.Nanosecond)})...)
	want := []report.Finding{{
		Rule: report.RuleHours, Caller: caller,
		Why:     "2 calls in the hours 03, 04 UTC, with none there or next to it in 1000 calls before",
		Numbers: map[string]float64{"calls": 2, "hours": 2, "past_calls": 1000},
		Show:    []string{"--kind", "call", "--caller", caller, "--since", "2030-01-31T03:00:00Z", "--until", "2030-01-31T04:00:00.000000002Z"},
	}}
	if diff := cmp.Diff(want, r.Unusual); diff != "" {
		t.Error(diff)
	}
}

// A call that is recorded long after it began was not at once with what came
// since.
func TestLateRecord(t *testing.T) {
	r := count(t, slices.Concat(days(-2, -1, 30), day(0, 30), []*auditv1.Record{call(8*time.Hour, peer("198.51.100.7:1"))})...)
	if len(r.Unusual) != 0 {
		t.Errorf("%+v", r.Unusual)
	}
}
