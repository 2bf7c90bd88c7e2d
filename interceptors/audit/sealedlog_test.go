package audit_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// newSealedLog writes calls 1 to 20 in runs of ten, each with a data key of its
// own, over several segments.
func newSealedLog(t *testing.T, k audit.Keeper) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "audit")
	for run := range 2 {
		l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 2000, Sealer: newSealer(t, k)})
		appendCalls(t, l, run*10+1, run*10+10)
		closed(t, l)
	}
	return dir
}

// What is sealed is nowhere in the files, verifies without a key, and is read with
// it, from any place on, one record too.
func TestSealedLog(t *testing.T) {
	k := newKeeper(t)
	dir := newSealedLog(t, k)
	if n := len(segmentFiles(t, dir)); n < 4 {
		t.Fatalf("%d segments, want several of each run", n)
	}
	for name, content := range contents(t, dir) {
		for _, private := range []string{"clinic", "breast-cancer", "192.0.2.7", "PREDICT"} {
			if bytes.Contains([]byte(content), []byte(private)) {
				t.Errorf("%s holds %q", name, private)
			}
		}
	}
	report := verify(t, dir)
	if report.Records < 20+4 {
		t.Errorf("%d records, want 20 and a key in each segment", report.Records)
	}

	opened := audit.View{Dir: dir, Keys: audit.NewUnsealer(k)}
	for _, from := range []uint64{0, 7, report.Records} {
		var got []string
		for r, err := range opened.Records(t.Context(), from) {
			if err != nil {
				t.Fatal(err)
			}
			if r.GetKind() == auditv1.Kind_KIND_KEY {
				continue
			}
			if r.GetCaller().GetSpiffeId() != "spiffe://sallyport.test/clinic/ward" || r.GetSequence() < from || len(r.GetSealed()) > 0 {
				t.Errorf("from %d: %v", from, r)
			}
			got = append(got, r.GetCallId())
		}
		if all := calls(1, 20); !slices.Equal(got, all[20-len(got):]) || from == 0 && len(got) != 20 {
			t.Errorf("from %d: %v", from, got)
		}
	}
	for _, id := range calls(1, 20) {
		r, err := opened.Find(t.Context(), id)
		if err != nil || r.GetModel() != "breast-cancer" || r.GetCallId() != id {
			t.Errorf("Find %s: %v, %v", id, r, err)
		}
		if r, err := view(dir).Find(t.Context(), id); err != nil || r.GetModel() != "" || len(r.GetSealed()) == 0 {
			t.Errorf("Find %s without the key: %v, %v", id, r, err)
		}
	}
	if asked := k.asked.Load(); asked != 2 {
		t.Errorf("the keeper was asked %d times to open two data keys", asked)
	}

	// A sealed record is proved as it is stored.
	proof, err := audit.Prove(dir, "call-3", nil)
	if err != nil {
		t.Fatal(err)
	}
	verifiers, err := audit.ParseVerifiers(public)
	if err != nil {
		t.Fatal(err)
	}
	proven, err := audit.CheckProof(proof, verifiers, nil)
	if err != nil || proven.Record.GetCallId() != "call-3" || len(proven.Record.GetSealed()) == 0 {
		t.Errorf("proved %v, %v", proven, err)
	}
}

// Another key opens nothing and is told from tampering.
func TestSealedLogAndAnotherKey(t *testing.T) {
	dir := newSealedLog(t, newKeeper(t))
	other := audit.View{Dir: dir, Keys: audit.NewUnsealer(newKeeper(t))}
	var missing *audit.KeyError
	for _, err := range other.Records(t.Context(), 0) {
		if !errors.As(err, &missing) || missing.Keeper != "local" {
			t.Errorf("Records: %v, want a KeyError", err)
		}
	}
	if _, err := other.Find(t.Context(), "call-1"); !errors.As(err, &missing) {
		t.Errorf("Find: %v, want a KeyError", err)
	}
}

// Encryption can begin and end with any start, and a log that failed begins a
// segment with its key, too.
func TestSealingBeginsAndEnds(t *testing.T) {
	k := newKeeper(t)
	dir := filepath.Join(t.TempDir(), "audit")
	for run, cfg := range []audit.Config{{}, {Sealer: newSealer(t, k)}, {}, {Sealer: newSealer(t, k)}} {
		cfg.Dir, cfg.Key = dir, key
		var d disk
		l := open(t, cfg.WithSync(d.sync))
		appendCalls(t, l, run*4+1, run*4+2)
		d.fail(errDenied, "")
		unavailable(t, l, "refused", audit.ErrUnavailable)
		d.fail(nil, "")
		eventually(t, func() bool { return l.Err() == nil })
		appendCalls(t, l, run*4+3, run*4+4)
		closed(t, l)
	}
	verify(t, dir)
	var got []string
	for r, err := range (audit.View{Dir: dir, Keys: audit.NewUnsealer(k)}).Records(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if r.GetKind() == auditv1.Kind_KIND_CALL {
			got = append(got, r.GetCallId()+" "+r.GetModel())
		}
	}
	var want []string
	for _, id := range calls(1, 16) {
		want = append(want, id+" breast-cancer")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}
