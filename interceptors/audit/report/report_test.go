package report_test

import (
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit/report"
)

func TestNew(t *testing.T) {
	for name, cfg := range map[string]report.Config{
		"no end":           {Since: since},
		"ends as it began": {Since: since, Until: since},
	} {
		if _, err := report.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCalls(t *testing.T) {
	user := func(issuer, subject string) func(*auditv1.Record) {
		return func(r *auditv1.Record) { r.User = &auditv1.User{Issuer: issuer, Subject: subject} }
	}
	work := func(r *auditv1.Record) {
		r.RowsReceived, r.RowsRun, r.BytesReceived, r.BytesSent, r.ModelDuration = 3, 2, 100, 50, durationpb.New(time.Second)
	}
	batches := func(r *auditv1.Record) {
		r.Action, r.Refused = "PREDICT_STREAM", map[string]uint64{"QUOTA_ROWS": 4, "POLICY_DENIED": 1}
	}
	r := count(t,
		call(-time.Nanosecond), // before the period
		call(0, work, user("i", "alice")),
		call(time.Hour, work, user("i", "alice")),
		call(2*time.Hour, user("j", "alice"), took(3*time.Second)),
		call(3*time.Hour, denied, took(time.Hour)),
		call(4*time.Hour, batches),
		call(5*time.Hour, func(r *auditv1.Record) {
			r.Caller, r.Model, r.Action, r.Code, r.Reason = nil, "", "", 12, "METHOD_UNKNOWN"
		}),
		call(24*time.Hour), // after it
	)
	wantTotals := report.Totals{
		Records: 6, Calls: 6, Refused: 2, Denied: 1, Callers: 1, Models: 1,
		RowsReceived: 6, RowsRun: 4, BytesReceived: 200, BytesSent: 100, ModelSeconds: 2,
	}
	if diff := cmp.Diff(wantTotals, r.Totals); diff != "" {
		t.Error(diff)
	}
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 0.05*max(a, b) })
	at := func(h int) time.Time { return since.Add(time.Duration(h) * time.Hour) }
	wantCalls := []report.Call{
		{
			Caller: caller, Model: "digits", Action: "PREDICT", Users: 2, Calls: 4, Refused: 1, Denied: 1, RowsReceived: 6, RowsRun: 4,
			BytesReceived: 200, BytesSent: 100, ModelSeconds: 2, P50: 0.001, P99: 3, First: at(0), Last: at(3),
		},
		{Calls: 1, Refused: 1, First: at(5), Last: at(5)},
		{Caller: caller, Model: "digits", Action: "PREDICT_STREAM", Calls: 1, P50: 0.001, P99: 0.001, First: at(4), Last: at(4)},
	}
	if diff := cmp.Diff(wantCalls, r.Calls, near); diff != "" {
		t.Error(diff)
	}
	wantRefusals := []report.Refusal{
		{Reason: "POLICY_DENIED", Code: "PERMISSION_DENIED", Calls: 1, Batches: 1, Callers: 1, First: at(3), Last: at(4)},
		{Reason: "METHOD_UNKNOWN", Code: "UNIMPLEMENTED", Calls: 1, Callers: 1, First: at(5), Last: at(5)},
		{Reason: "QUOTA_ROWS", Batches: 4, Callers: 1, First: at(4), Last: at(4)},
	}
	if diff := cmp.Diff(wantRefusals, r.Refusals); diff != "" {
		t.Error(diff)
	}
	for i := range wantRefusals {
		wantRefusals[i].Callers, wantRefusals[i].Caller = 0, caller
	}
	wantRefusals[1].Caller = ""
	if diff := cmp.Diff(wantRefusals, r.RefusalsByCaller); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"1 records are later than the period"}, r.Notes); diff != "" {
		t.Error(diff)
	}
}

func TestHandshakes(t *testing.T) {
	refused := func(after time.Duration, claimed, peer, detail string) *auditv1.Record {
		r := call(after)
		r.Kind, r.Caller, r.Code, r.Reason, r.ClaimedId, r.PeerAddress, r.Detail = auditv1.Kind_KIND_HANDSHAKE, nil, 16, "IDENTITY_REJECTED", claimed, peer, detail
		return r
	}
	r := count(t,
		refused(-1, "spiffe://x.test/a", "192.0.2.1:1", ""),
		refused(0, "spiffe://x.test/a", "192.0.2.1:1", ""),
		refused(1, "spiffe://x.test/a", "192.0.2.1:2", "after 41 more that were not recorded: claimed"),
		refused(2, "", "[2001:db8::1]:2", "claimed after 9 more that were not recorded: "),
	)
	want := []report.Handshake{
		{Claimed: "spiffe://x.test/a", Peer: "192.0.2.1", Count: 2, Reasons: map[string]uint64{"IDENTITY_REJECTED": 2}, First: since, Last: since.Add(1)},
		{Peer: "2001:db8::1", Count: 1, Reasons: map[string]uint64{"IDENTITY_REJECTED": 1}, First: since.Add(2), Last: since.Add(2)},
	}
	if diff := cmp.Diff(want, r.Handshakes); diff != "" {
		t.Error(diff)
	}
	if r.Totals.Handshakes != 3 || r.Totals.Unrecorded != 41 || !strings.Contains(strings.Join(r.Notes, "\n"), "41 more handshakes") {
		t.Errorf("%+v, %q", r.Totals, r.Notes)
	}
}

func TestEvents(t *testing.T) {
	event := func(after time.Duration, detail string) *auditv1.Record {
		r := call(after)
		r.Kind, r.Caller, r.Detail = auditv1.Kind_KIND_EVENT, nil, detail
		return r
	}
	r := count(t,
		event(-2, "server started, sallyport 1"),
		event(0, "server started, sallyport 1"),
		event(1, "policy generation 2 in force, sha256:ab"),
		event(2, "server stopped"),
		event(3, "server started, sallyport 1"),
		event(4, "policy refused, generation 2 stays in force: line 3"),
		event(5, "audit log: a torn tail of 12 bytes was cut off x and kept as y"),
		event(6, "7 more calls that ended before the gates are not recorded: they came too fast"),
		event(7, `model "not loaded" version 1 loaded, sha256:cd`),
	)
	var got []string
	for _, c := range r.Events {
		for _, e := range c.Latest {
			got = append(got, fmt.Sprintf("%s %v %d %s", c.Category, e.Fault, e.Time.Sub(since), e.Detail))
		}
	}
	want := []string{
		"policy false 1 policy generation 2 in force, sha256:ab",
		"policy true 4 policy refused, generation 2 stays in force: line 3",
		"server true 0 server started, sallyport 1 (the one before it did not stop in order)",
		"server false 2 server stopped",
		"server false 3 server started, sallyport 1",
		"log true 5 audit log: a torn tail of 12 bytes was cut off x and kept as y",
		"log true 6 7 more calls that ended before the gates are not recorded: they came too fast",
		`model false 7 model "not loaded" version 1 loaded, sha256:cd`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What the log does not say is said.
func TestNotes(t *testing.T) {
	sealed := call(0)
	sealed.Sealed = []byte{1}
	retention := &auditv1.Record{Kind: auditv1.Kind_KIND_RETENTION, Time: call(1).GetTime(), RemovedThrough: 40}
	r := count(t, sealed, retention)
	want := []string{
		"the log has nothing before the period, so nothing is compared with the past: only probing and addresses are looked for",
		"records 1 to 40 may have been removed by retention: what was before them is not known",
		"1 records of the period are sealed, and only counted: their key is needed to read them",
	}
	if diff := cmp.Diff(want, r.Notes); diff != "" {
		t.Error(diff)
	}
	if r.Totals.Sealed != 1 || r.Totals.Own != 1 || r.Totals.Calls != 0 {
		t.Errorf("%+v", r.Totals)
	}
	if r := count(t, call(-time.Hour)); !slices.Contains(r.Notes, "the log has no records of the period; it has them from 2030-01-30T23:00:00Z to 2030-01-30T23:00:00Z") {
		t.Errorf("%q", r.Notes)
	}
}

// However many names callers and strangers make up, what is kept is bounded, and
// what is not kept apart is counted together.
func TestBounded(t *testing.T) {
	c, err := report.New(report.Config{Since: since, Until: until})
	if err != nil {
		t.Fatal(err)
	}
	const n = 30_000
	for i := range n {
		name := fmt.Sprint("name-", i)
		c.Add(call(0, by("spiffe://x.test/"+name)))
		c.Add(call(0, model(name), serial(name), peer(name), func(r *auditv1.Record) {
			r.Code, r.Reason, r.User = 7, name, &auditv1.User{Subject: name}
		}))
		hs := call(0)
		hs.Kind, hs.Reason, hs.ClaimedId = auditv1.Kind_KIND_HANDSHAKE, name, name
		c.Add(hs)
		e := call(0)
		e.Kind, e.Detail = auditv1.Kind_KIND_EVENT, name
		c.Add(e)
	}
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := c.Report()
	if len(r.Calls) > 21_000 || len(r.Handshakes) != 10_001 || len(r.RefusalsByCaller) > 65 || len(r.Events[0].Latest) != 100 {
		t.Errorf("%d rows, %d handshakes, %d refusals, %d events", len(r.Calls), len(r.Handshakes), len(r.RefusalsByCaller), len(r.Events[0].Latest))
	}
	var calls, handshakes, refused uint64
	for _, row := range r.Calls {
		calls += row.Calls
	}
	for _, row := range r.Handshakes {
		handshakes += row.Count
	}
	for _, row := range r.Refusals {
		refused += row.Calls
	}
	if calls != 2*n || handshakes != n || refused != n || r.Events[0].Count != n {
		t.Errorf("%d calls, %d handshakes, %d refusals, %d events are counted, want %d, %d, %d, %d", calls, handshakes, refused, r.Events[0].Count, 2*n, n, n, n)
	}
	for _, note := range []string{"only the first 10000 callers", "of each the first 256", "only the first 10000 peers", "20000 or more names of models"} {
		if !strings.Contains(strings.Join(r.Notes, "\n"), note) {
			t.Errorf("no note %q in %q", note, r.Notes)
		}
	}
	if before.HeapAlloc > 200<<20 {
		t.Errorf("%d MiB are kept", before.HeapAlloc>>20)
	}
	runtime.KeepAlive(c)
}

func BenchmarkAdd(b *testing.B) {
	c, err := report.New(report.Config{Since: since, Until: until})
	if err != nil {
		b.Fatal(err)
	}
	records := make([]*auditv1.Record, 1000)
	for i := range records {
		records[i] = call(time.Duration(i-500)*time.Minute, by(fmt.Sprint("spiffe://x.test/", i%50)), model(fmt.Sprint("m", i%7)))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c.Add(records[i%len(records)])
	}
}

// A log without records gives a report, whose lists are empty and not null.
func TestEmptyReport(t *testing.T) {
	encoded, err := json.Marshal(count(t))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(encoded), "null") || !strings.Contains(string(encoded), `"notes":["the log has no records"]`) {
		t.Errorf("%s", encoded)
	}
}
