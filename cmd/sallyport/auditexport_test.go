package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// logCollector is a collector that keeps what it takes, over gRPC and HTTP.
type logCollector struct {
	collectorv1.UnimplementedLogsServiceServer

	// refuse is asked about the nth request, from 1 on, if it is not nil.
	refuse func(n int) error
	// took hears of every batch that was taken, if it is not nil.
	took chan struct{}

	mu        sync.Mutex // guards what follows
	requests  int
	sequences []int64
	bodies    []string
}

func (c *logCollector) Export(_ context.Context, req *collectorv1.ExportLogsServiceRequest) (*collectorv1.ExportLogsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	if c.refuse != nil {
		if err := c.refuse(c.requests); err != nil {
			return nil, err
		}
	}
	for _, r := range req.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
		c.sequences = append(c.sequences, r.GetAttributes()[0].GetValue().GetIntValue())
		c.bodies = append(c.bodies, r.GetBody().GetStringValue())
	}
	if c.took != nil {
		c.took <- struct{}{}
	}
	return &collectorv1.ExportLogsServiceResponse{}, nil
}

func (c *logCollector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	req := new(collectorv1.ExportLogsServiceRequest)
	if err != nil || proto.Unmarshal(body, req) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if _, err := c.Export(r.Context(), req); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// serve serves the collector in the way the flag --otlp-protocol says, until the
// test ends, and returns its URL.
func (c *logCollector) serve(t *testing.T, protocol string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	if protocol == "grpc" {
		server := grpc.NewServer()
		collectorv1.RegisterLogsServiceServer(server, c)
		serving.Go(func() { _ = server.Serve(listener) })
		t.Cleanup(func() {
			server.Stop()
			serving.Wait()
		})
	} else {
		server := &http.Server{Handler: c}
		serving.Go(func() { _ = server.Serve(listener) })
		t.Cleanup(func() {
			_ = server.Close()
			serving.Wait()
		})
	}
	return "http://" + listener.Addr().String()
}

// export runs the command over dir and returns its exit code and what it said.
func export(t *testing.T, dir string, args ...string) (code int, said string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = run(t.Context(), append([]string{"audit", "export", dir}, args...), nil, &out, &errOut)
	return code, out.String() + errOut.String()
}

// A log is exported in as many runs as it takes: nothing is missing, and nothing
// that was acknowledged comes again.
func TestExportWithCursor(t *testing.T) {
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() + "/audit"
			cursor := filepath.Join(t.TempDir(), "cursor")
			const n = 2000
			writeMany(t, dir, n)
			c := &logCollector{}
			// The third batch is refused for longer than the first run tries.
			c.refuse = func(n int) error {
				if n == 3 {
					return status.Error(codes.Unavailable, "restarting")
				}
				return nil
			}
			args := []string{"--otlp", c.serve(t, protocol), "--otlp-protocol", protocol, "--cursor", cursor}
			code, said := export(t, dir, append(args, "--retry-for", "1ms")...)
			first := len(c.sequences)
			if code != exitFailed || first == 0 || first == n || !strings.Contains(said, fmt.Sprintf("exported %d records", first)) || !strings.Contains(said, "given up after 1 attempts") {
				t.Fatalf("exit %d, %d records: %s", code, first, said)
			}
			if code, said := export(t, dir, args...); code != 0 || !strings.Contains(said, fmt.Sprintf("exported %d records, 0 rejected; 0 did not match, 0 were missing", n-first)) {
				t.Fatalf("exit %d: %s", code, said)
			}
			if code, said := export(t, dir, args...); code != 0 || !strings.Contains(said, "exported 0 records") {
				t.Fatalf("exit %d: %s", code, said)
			}
			for i, sequence := range c.sequences {
				if sequence != int64(i+1) {
					t.Fatalf("record %d at %d", sequence, i+1)
				}
			}
			if len(c.sequences) != n {
				t.Errorf("%d records, want %d", len(c.sequences), n)
			}

			// The cursor is of that log and no other.
			other := t.TempDir() + "/audit"
			writeLog(t, other, sampleRecords()...)
			if code, said := export(t, other, args...); code != exitFailed || !strings.Contains(said, "the log ends before record 2000") {
				t.Errorf("exit %d: %s", code, said)
			}
		})
	}
}

// Following sends what comes, and ends well when interrupted.
func TestExportFollows(t *testing.T) {
	dir := t.TempDir() + "/audit"
	cursor := filepath.Join(t.TempDir(), "cursor")
	records := sampleRecords()
	writeLog(t, dir, records[:3]...)
	c := &logCollector{took: make(chan struct{}, 16)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan int, 1)
	var said bytes.Buffer
	url := c.serve(t, "grpc")
	go func() {
		ended <- run(ctx, []string{"audit", "export", dir, "--otlp", url, "--otlp-protocol", "grpc", "--follow", "--cursor", cursor, "--kind", "call,handshake"}, nil, io.Discard, &said)
	}()
	<-c.took
	writeLog(t, dir, records[3:]...)
	<-c.took
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit %d: %s", code, &said)
	}
	want := []string{
		"PREDICT digits/1 by spiffe://sallyport.test/clinic/triage: OK",
		"PREDICT digits by spiffe://sallyport.test/intern for alice: PERMISSION_DENIED (POLICY_DENIED): no role",
		`/x\x1b[2J by nobody known: UNIMPLEMENTED (METHOD_UNKNOWN)`,
		"handshake with 192.0.2.7:6000 refused: UNAUTHENTICATED (HANDSHAKE_FAILED): certificate expired",
	}
	if diff := cmp.Diff(want, c.bodies); diff != "" {
		t.Error(diff)
	}
}

// What is exported as JSON lines is what audit show --json prints, whole: a file
// is not there before all of it is.
func TestExportLines(t *testing.T) {
	dir := t.TempDir() + "/audit"
	writeLog(t, dir, sampleRecords()...)
	file := filepath.Join(t.TempDir(), "audit.jsonl")
	if code, said := export(t, dir, "--output", file, "--kind", "call"); code != 0 || said != "" {
		t.Fatalf("exit %d: %s", code, said)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if code := run(t.Context(), []string{"audit", "show", dir, "--json", "--kind", "call"}, nil, &shown, &shown); code != 0 {
		t.Fatalf("exit %d: %s", code, &shown)
	}
	if diff := cmp.Diff(shown.String(), string(got)); diff != "" {
		t.Error(diff)
	}
	var sequences []string
	for line := range strings.Lines(string(got)) {
		var r struct{ Sequence string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		sequences = append(sequences, r.Sequence)
	}
	if diff := cmp.Diff([]string{"2", "3", "4"}, sequences); diff != "" {
		t.Error(diff)
	}

	// A log that breaks off leaves the file as it was.
	segments, err := filepath.Glob(dir + "/*.log")
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(segments[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, said := export(t, dir, "--output", file); code != exitFailed || !strings.Contains(said, "at offset") {
		t.Errorf("exit %d: %s", code, said)
	}
	after, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, after) {
		t.Errorf("the file is %q, %v", after, err)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

// The log's own records are exported too, unless a filter says otherwise: the
// sequence has no gaps.
func TestExportOwnRecords(t *testing.T) {
	var out bytes.Buffer
	if _, err := writeLines(t.Context(), &out, ownRecords(), &exportFlags{}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d records, want 3: %s", n, &out)
	}
	for r, err := range ownRecords() {
		if err != nil {
			t.Fatal(err)
		}
		if s := recordSentence(r); s == "" || strings.Contains(s, strconv.Quote("\n")) {
			t.Errorf("%v: %q", r.GetKind(), s)
		}
	}
}
