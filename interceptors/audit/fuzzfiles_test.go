package audit_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// FuzzCheckpoints reads arbitrary bytes as the checkpoints of a log. What is accepted
// was signed.
func FuzzCheckpoints(f *testing.F) {
	dir := newLog(f, 3, 0)
	name := besideOf(1)
	whole := readFile(f, filepath.Join(dir, name))
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add([]byte("a\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— a AAAA\n"))
	f.Add([]byte("\n\n— \n— \n\n\n"))
	signed := map[string]bool{}
	for _, note := range notesOf(whole) {
		signed[string(note)] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// As it comes from elsewhere, without a signature that is checked.
		if c, err := audit.ParseCheckpoint(b, nil); err == nil && !bytes.Equal(c.Note, b) {
			t.Errorf("%q was parsed as %q", b, c.Note)
		}
		if c, err := audit.ParseCheckpoint(b, verifiers(t)); err == nil && !signed[string(b)] && len(c.Keys) == 0 {
			t.Errorf("%q was accepted, nobody signed it", b)
		}
		copied, err := os.MkdirTemp(dir, "") // t.TempDir is too slow for a fuzzer
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(copied) }()
		for _, same := range []string{firstName, "log.pub"} {
			if err := os.Link(filepath.Join(dir, same), filepath.Join(copied, same)); err != nil {
				t.Fatal(err)
			}
		}
		writeFile(t, filepath.Join(copied, name), b)
		report, err := audit.Verify(copied, audit.VerifyConfig{PublicKeys: []string{public}})
		if err != nil {
			if _, ok := errors.AsType[*audit.TamperError](err); !ok {
				t.Errorf("Verify: %v, want a TamperError", err)
			}
			return
		}
		if report.Checkpoint.Size > 0 && !bytes.Contains(whole, report.Checkpoint.Note[:bytes.Index(report.Checkpoint.Note, []byte("\n\n"))]) {
			t.Errorf("a checkpoint fits that the log has not made: %q", report.Checkpoint.Note)
		}
	})
}

// FuzzIndex reads arbitrary bytes as the index of a segment. Whatever it says, no
// other record is found than the one that was asked for, and no proof that does not
// hold is made.
func FuzzIndex(f *testing.F) {
	dir := newLog(f, 6, 900)
	name := indexNameOf(1)
	whole := readFile(f, filepath.Join(dir, name))
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	for _, at := range []int{11, 19, 27, 35, 43, 51, 59, 60, 67, len(whole) / 2, len(whole) - 10} {
		for _, mask := range []byte{1, 0x80, 0xff} {
			b := bytes.Clone(whole)
			b[at] ^= mask
			f.Add(b)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		copied, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(copied) }()
		for _, e := range entries {
			if e.Name() == name {
				continue
			}
			if err := os.Link(filepath.Join(dir, e.Name()), filepath.Join(copied, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		writeFile(t, filepath.Join(copied, name), b)
		for _, i := range []int{1, 2, 6} {
			id := call(i).GetCallId()
			if r, err := view(copied).Find(t.Context(), id); err == nil && (r.GetCallId() != id || r.GetSequence() != uint64(i)) {
				t.Errorf("call %s: found %v", id, r)
			}
			if p, err := audit.Prove(copied, id, nil); err == nil {
				if _, err := audit.CheckProof(p, verifiers(t), nil); err != nil {
					t.Errorf("call %s: the proof does not hold: %v", id, err)
				}
			}
		}
		if _, err := audit.Verify(copied, audit.VerifyConfig{}); (err == nil) != bytes.Equal(b, whole) {
			t.Errorf("Verify: %v", err)
		}
	})
}

// FuzzCheckProof checks arbitrary bytes as a proof. What is accepted speaks of a
// record that is in the log.
func FuzzCheckProof(f *testing.F) {
	dir := newLog(f, 7, 900)
	known := map[string]bool{}
	for i := 1; i <= 7; i++ {
		f.Add(prove(f, dir, call(i).GetCallId(), nil))
		known[call(i).GetCallId()] = true
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := audit.CheckProof(b, verifiers(t), nil); err == nil && !known[p.Record.GetCallId()] {
			t.Errorf("%q proves %v", b, p.Record)
		}
	})
}
