package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
	"github.com/sallyport/sallyport/interceptors/audit/audittest"
)

// began is the time of the first record in the logs of the tests.
var began = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// sampleRecords are one record of each kind, a minute apart.
func sampleRecords() []*auditv1.Record {
	records := []*auditv1.Record{
		{Kind: auditv1.Kind_KIND_EVENT, Detail: "started"},
		{
			Kind: auditv1.Kind_KIND_CALL, CallId: "call-1", Method: "/sallyport.inference.v1.PredictionService/Predict",
			Caller: &auditv1.Caller{SpiffeId: "spiffe://sallyport.test/clinic/triage"}, PeerAddress: "192.0.2.1:5000",
			Action: "PREDICT", Model: "digits", ModelVersion: 1, RowsReceived: 12, RowsRun: 12, Duration: durationpb.New(1234567 * time.Nanosecond),
		},
		{
			Kind: auditv1.Kind_KIND_CALL, CallId: "call-2", Caller: &auditv1.Caller{SpiffeId: "spiffe://sallyport.test/intern"},
			User:   &auditv1.User{Issuer: "https://idp.test", Subject: "alice"},
			Action: "PREDICT", Model: "digits", Code: 7, Reason: "POLICY_DENIED", Detail: "no role", Duration: durationpb.New(40 * time.Microsecond),
		},
		{Kind: auditv1.Kind_KIND_CALL, CallId: "call-3", Method: "/x\x1b[2J", PeerAddress: "192.0.2.9:1", Code: 12, Reason: "METHOD_UNKNOWN"},
		{Kind: auditv1.Kind_KIND_HANDSHAKE, PeerAddress: "192.0.2.7:6000", Code: 16, Reason: "HANDSHAKE_FAILED", Detail: "certificate expired"},
	}
	for i, r := range records {
		r.Time = timestamppb.New(began.Add(time.Duration(i) * time.Minute))
	}
	return records
}

func writeLog(t testing.TB, dir string, records ...*auditv1.Record) {
	t.Helper()
	if err := appendLog(dir, records...); err != nil {
		t.Fatal(err)
	}
}

// openLog opens a log to write to, for all tests of what reads one.
func openLog(dir string) (*audit.Log, error) {
	return audit.Open(audit.Config{Key: audittest.Key(), Dir: dir})
}

func appendLog(dir string, records ...*auditv1.Record) (err error) {
	w, err := openLog(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for _, r := range records {
		if err := w.Append(context.Background(), r, audit.Required); err != nil {
			return err
		}
	}
	return nil
}

// writeMany writes a log of n calls of a hundred callers to ten models, spread over
// a month.
func writeMany(t testing.TB, dir string, n int) {
	t.Helper()
	w, err := openLog(dir)
	if err != nil {
		t.Fatal(err)
	}
	var appending sync.WaitGroup
	failures := make(chan error, 64)
	for worker := range 64 {
		appending.Go(func() {
			for i := worker; i < n; i += 64 {
				r := &auditv1.Record{
					Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.New(began.Add(time.Duration(i) * 30 * 24 * time.Hour / time.Duration(n))),
					Duration: durationpb.New(time.Duration(i%1000) * time.Microsecond), CallId: fmt.Sprintf("01JABCDEFGHJKMNPQRST%06d", i),
					Method: "/sallyport.inference.v1.PredictionService/Predict", PeerAddress: "192.0.2.1:5000",
					Caller: &auditv1.Caller{SpiffeId: fmt.Sprintf("spiffe://sallyport.test/team/%d", i%100), SvidSerial: "a1", SvidExpiry: timestamppb.New(began)},
					Action: "PREDICT", Model: fmt.Sprintf("model-%d", i%10), ModelVersion: 1, ModelDigest: strings.Repeat("ab", 32),
					Roles: []string{"reader"}, RowsReceived: 4, RowsRun: 4, InputDigest: make([]byte, 32),
					PolicyDigest: strings.Repeat("cd", 32), BytesReceived: 600, BytesSent: 200, ModelDuration: durationpb.New(time.Millisecond),
				}
				if err := w.Append(context.Background(), r, audit.Required); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	appending.Wait()
	close(failures)
	if err := errors.Join(<-failures, w.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestShowFilters(t *testing.T) {
	dir := t.TempDir() + "/audit"
	records := sampleRecords()
	records[1].Roles, records[1].Caller.SvidSerial = []string{"admin", "reader"}, "0a1b"
	writeLog(t, dir, records...)
	for _, tt := range []struct {
		args string
		want string
	}{
		{"", "1 2 3 4 5"},
		{"--caller spiffe://sallyport.test/clinic/*", "2"},
		{"--model dig*", "2 3"},
		{"--action predict", "2 3"},
		{"--code OK", "2"},
		{"--code permission_denied,16", "3 5"},
		{"--code 7 --code 12", "3 4"},
		{"--reason policy_denied,METHOD_UNKNOWN", "3 4"},
		{"--caller sallyport.test/intern", "3"},
		{"--user alice", "3"},
		{"--user alice --user-issuer https://idp.test", "3"},
		{"--user alice --user-issuer https://other.test", ""},
		{"--user-issuer https://idp.test", "3"},
		{"--role reader", "2"},
		{"--serial 0A1B", "2"},
		{"--peer 192.0.2.9", "4"},
		{"--peer 192.0.2.0/29", "2 5"},
		{"--peer 192.0.2.0/24 --code 12", "4"},
		{"--kind handshake,event", "1 5"},
		{"--kind all", "1 2 3 4 5"},
		{"--code permission_denied", "3"},
		{"--code 12", "4"},
		{"--reason METHOD_UNKNOWN", "4"},
		{"--kind handshake", "5"},
		{"--kind event", "1"},
		{"--call call-2", "3"},
		{"--since 2030-01-02T03:06:05Z", "3 4 5"},
		{"--until 2030-01-02T03:06:05Z", "1 2"},
		{"--since 2200-01-01T00:00:00Z", ""},
		{"--until -1000000h", "1 2 3 4 5"}, // that is far in the future
		{"-n 2", "4 5"},
		{"-n 2 --action PREDICT", "2 3"},
		{"-n 9", "1 2 3 4 5"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			args := append([]string{"audit", "show", dir, "--json"}, strings.Fields(tt.args)...)
			var out, errOut bytes.Buffer
			if code := run(t.Context(), args, nil, &out, &errOut); code != 0 {
				t.Fatalf("exit %d: %s", code, &errOut)
			}
			var got []string
			for line := range strings.Lines(out.String()) {
				_, after, _ := strings.Cut(line, `{"sequence":"`)
				sequence, _, _ := strings.Cut(after, `"`)
				got = append(got, sequence)
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Following shows what is there, then what comes, and ends well.
func TestShowFollow(t *testing.T) {
	dir := t.TempDir() + "/audit"
	records := sampleRecords()
	writeLog(t, dir, records[:3]...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"audit", "show", dir, "--json", "--follow", "-n", "1", "--kind", "call"}, nil, w, io.Discard)
		_ = w.Close()
	}()
	line := make([]byte, 4096)
	read := func(want string) {
		t.Helper()
		n, err := r.Read(line)
		if err != nil || !bytes.Contains(line[:n], []byte(want)) {
			t.Fatalf("read %q, %v, want %s", line[:n], err, want)
		}
	}
	read("call-2")
	writeLog(t, dir, records[3:]...)
	read("call-3")
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit %d", code)
	}
}

func TestVerifyFindsEveryByte(t *testing.T) {
	dir := t.TempDir() + "/audit"
	writeLog(t, dir, sampleRecords()...)
	segments, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var name string
	for _, s := range segments {
		if strings.HasSuffix(s.Name(), ".log") {
			name = dir + "/" + s.Name()
		}
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(data); i += 7 {
		changed := bytes.Clone(data)
		changed[i] ^= 1
		if err := os.WriteFile(name, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		err := verifyAudit(io.Discard, dir, trust{})
		if text := errText(err); !strings.Contains(text, "does NOT verify") || !strings.Contains(text, "at offset") {
			t.Errorf("byte %d: %s", i, text)
		}
	}
}

func TestParseTime(t *testing.T) {
	for s, want := range map[string]string{
		"":                            "0001-01-01T00:00:00Z",
		"90m":                         "2030-01-02T01:34:05Z",
		"2029-12-31T23:59:59Z":        "2029-12-31T23:59:59Z",
		"2030-01-01T00:00:00.5+01:00": "2029-12-31T23:00:00.5Z",
		"yesterday":                   `"yesterday": must be a time such as 2030-01-02T03:04:05Z, or how long ago, such as 90m`,
	} {
		at, err := parseTime(s, began)
		got := at.UTC().Format(time.RFC3339Nano)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

func TestParseCode(t *testing.T) {
	for s, want := range map[string]string{"OK": "0", "unauthenticated": "16", "16": "16", "17": "", "-1": "", "DENIED": ""} {
		code, err := parseCode(s)
		if got := fmt.Sprint(code); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%s: %d, %v", s, code, err)
		}
	}
}
