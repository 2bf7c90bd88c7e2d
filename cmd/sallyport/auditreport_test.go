package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/report"
)

// unusualRecords are those of a log in which every rule of audit report finds
// something: eight days as ever, and then the day that begins with reportSince.
func unusualRecords() []*auditv1.Record {
	var records []*auditv1.Record
	add := func(at time.Time, caller, serial, peer, model string, change ...func(*auditv1.Record)) {
		r := &auditv1.Record{
			Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.New(at), Duration: durationpb.New(2 * time.Millisecond),
			CallId: fmt.Sprint("call-", len(records)+1), Method: "/sallyport.inference.v1.PredictionService/Predict",
			Caller: &auditv1.Caller{SpiffeId: "spiffe://sallyport.test/" + caller, SvidSerial: serial}, PeerAddress: peer + ":5000",
			Action: "PREDICT", Model: model, RowsReceived: 4, RowsRun: 4, BytesReceived: 600, BytesSent: 200, ModelDuration: durationpb.New(time.Millisecond),
		}
		for _, f := range change {
			f(r)
		}
		records = append(records, r)
	}
	denied := func(r *auditv1.Record) {
		r.Code, r.Reason, r.RowsRun, r.ModelDuration = 7, "POLICY_DENIED", 0, nil
	}
	alice := func(r *auditv1.Record) { r.User = &auditv1.User{Issuer: "https://idp.test", Subject: "alice"} }
	event := func(at time.Time, detail string) {
		records = append(records, &auditv1.Record{Kind: auditv1.Kind_KIND_EVENT, Time: timestamppb.New(at), Detail: detail})
	}
	event(reportSince.AddDate(0, 0, -8), "audit log begun")
	event(reportSince.AddDate(0, 0, -8), "server started, sallyport 1")
	for d := -8; d < 0; d++ {
		day := reportSince.AddDate(0, 0, d).Add(9 * time.Hour)
		for i := range 10 {
			add(day.Add(time.Duration(i)*time.Second), "clinic/triage", "a1", "192.0.2.1", "digits", alice)
		}
		for i := range 10 {
			add(day.Add(time.Duration(i)*time.Second), "clinic/busy", "b1", "192.0.2.2", "digits")
		}
		add(day, "clinic/gone", "c1", "192.0.2.3", "tickets")
	}
	event(reportSince.Add(time.Hour), "server started, sallyport 2")
	event(reportSince.Add(time.Hour), "policy generation 2 in force, sha256:00ff")
	records = append(records, &auditv1.Record{
		Kind: auditv1.Kind_KIND_HANDSHAKE, Time: timestamppb.New(reportSince.Add(2 * time.Hour)), PeerAddress: "198.51.100.9:1234",
		Code: 16, Reason: "IDENTITY_REJECTED", ClaimedId: "spiffe://sallyport.test/clinic/triage", Detail: "after 3 more that were not recorded: claimed",
	})
	day := reportSince.Add(9 * time.Hour)
	for i := range 12 {
		add(day.Add(time.Duration(i)*time.Second), "clinic/triage", "a1", "192.0.2.1", "digits", alice)
	}
	for i := range 8 {
		add(day.Add(time.Hour+time.Duration(i)*time.Second), "clinic/triage", []string{"a1", "a2"}[i%2], "192.0.2.1", fmt.Sprint("payroll-", i), denied)
	}
	for i := range 60 {
		add(day.Add(time.Duration(i)*time.Second), "clinic/busy", "b1", "192.0.2.2", "digits")
	}
	add(reportSince.Add(3*time.Hour), "clinic/busy", "b1", "192.0.2.2", "digits")
	add(reportSince.Add(3*time.Hour+time.Minute), "clinic/busy", "b1", "198.51.100.7", "digits")
	add(day, "intern", "d1", "192.0.2.4", "\x1b[2Jx", denied)
	slices.SortStableFunc(records, func(a, b *auditv1.Record) int { return a.GetTime().AsTime().Compare(b.GetTime().AsTime()) })
	return records
}

var reportSince = time.Date(2030, 1, 31, 0, 0, 0, 0, time.UTC)

// Every line of what is unusual comes with a command, which a shell can run and
// which shows the records that its numbers count.
func TestReportCommands(t *testing.T) {
	dir := t.TempDir() + "/the audit's log"
	writeLog(t, dir, unusualRecords()...)
	var text, encoded bytes.Buffer
	window := []string{"audit", "report", dir, "--since", "2030-01-31T00:00:00Z", "--until", "2030-02-01T00:00:00Z"}
	if code := run(t.Context(), window, nil, &text, &text); code != 0 {
		t.Fatalf("exit %d: %s", code, &text)
	}
	if code := run(t.Context(), append(window, "--json"), nil, &encoded, &encoded); code != 0 {
		t.Fatalf("exit %d: %s", code, &encoded)
	}
	var r report.Report
	if err := json.Unmarshal(encoded.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), "\x1b") {
		t.Errorf("the text can steer a terminal: %q", &text)
	}
	var rules []string
	for _, f := range r.Unusual {
		rules = append(rules, f.Rule)
		command := showCommand(dir, f.Show)
		if !strings.Contains(text.String(), command+"\n") {
			t.Errorf("the text has no %s", command)
		}
		// What a shell makes of it are the arguments again.
		words, err := exec.Command("bash", "-c", "printf '%s\\n' "+strings.TrimPrefix(command, "sallyport ")).Output()
		if err != nil {
			t.Fatal(err)
		}
		args := strings.Split(strings.TrimSuffix(string(words), "\n"), "\n")
		var out bytes.Buffer
		if code := run(t.Context(), append(args, "--json"), nil, &out, &out); code != 0 {
			t.Fatalf("%s: exit %d: %s", command, code, &out)
		}
		want := map[string]float64{
			report.RuleNew: f.Numbers["calls"], report.RuleSilent: 5, report.RuleVolume: f.Numbers["calls"],
			report.RuleDenials: f.Numbers["denied"], report.RuleProbing: f.Numbers["denied"], report.RuleHours: f.Numbers["calls"],
			report.RuleAddresses: f.Numbers["hosts"], report.RuleSerials: 2*f.Numbers["returns"] + 1,
		}[f.Rule]
		if got := strings.Count(out.String(), "\n"); float64(got) != want {
			t.Errorf("%s: %s shows %d records, want %v", f.Why, command, got, want)
		}
	}
	slices.Sort(rules)
	var all []string
	for _, rule := range report.Rules {
		all = append(all, rule.Name)
	}
	slices.Sort(all)
	if diff := cmp.Diff(all, slices.Compact(rules)); diff != "" {
		t.Error(diff)
	}
	for line := range strings.Lines(text.String()) {
		if n := len([]rune(line)); n > 121 && !strings.Contains(line, "sallyport audit show") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestShellWord(t *testing.T) {
	for _, s := range []string{"", "plain", "two words", "it's", "$(id)", "a\x1b[2J'\\\nb", "é\u202e", "-n", "\xff"} {
		word := shellWord(s)
		if printable(word) != word {
			t.Errorf("%q is not printable", word)
		}
		out, err := exec.Command("bash", "-c", "printf '%s' "+word).Output()
		if err != nil {
			t.Fatal(err)
		}
		if string(out) != s {
			t.Errorf("%s is %q in a shell, want %q", word, out, s)
		}
	}
}

func TestShortWords(t *testing.T) {
	got := []string{
		shortCount(0), shortCount(9_999_999), shortCount(12_345_678), shortCount(12_345_678_901),
		shortBytes(1023), shortBytes(1024), shortBytes(5 << 30), shortSeconds(0), shortSeconds(0.0012345), shortSeconds(123.4567), shortSeconds(7384),
		shorten("abcdefghij", 10), shorten("abcdefghijk", 10), shortCaller(""), shortCaller("spiffe://x/y"),
	}
	want := []string{"0", "9999999", "12.3M", "12.3G", "1023B", "1.0KiB", "5.0GiB", "-", "1.23ms", "2m3s", "2h3m0s", "abcdefghij", "abcd…ghijk", "(no identity proved)", "x/y"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkReport reads and counts a log of as many records as are asked for in
// SALLYPORT_REPORT_RECORDS, a hundred thousand unless told.
func BenchmarkReport(b *testing.B) {
	n := 100_000
	if s := os.Getenv("SALLYPORT_REPORT_RECORDS"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir() + "/audit"
	writeMany(b, dir, n)
	b.ResetTimer()
	for b.Loop() {
		var out bytes.Buffer
		if err := reportAudit(b.Context(), &out, audit.View{Dir: dir}, reportFlags{since: "2030-01-10T00:00:00Z", until: "2030-02-10T00:00:00Z", top: 20}, began); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
