package audit_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport/sallyport/interceptors/audit"
)

func verifiers(t testing.TB) note.Verifiers {
	t.Helper()
	v, err := audit.ParseVerifiers(public)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func prove(t testing.TB, dir, id string, checkpoint []byte) []byte {
	t.Helper()
	p, err := audit.Prove(dir, id, checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestProveEveryRecord proves every record of logs of every size up to beyond a power
// of two, against the last checkpoint and against each one before.
func TestProveEveryRecord(t *testing.T) {
	const most = 18
	dir := filepath.Join(t.TempDir(), "audit")
	var checkpoints []audit.Checkpoint
	for n := 1; n <= most; n++ {
		l := open(t, audit.Config{Key: key, Dir: dir, SegmentBytes: 900})
		appendCalls(t, l, n, n)
		closed(t, l)
		checkpoints = append(checkpoints, verify(t, dir).Checkpoint)
		for i := 1; i <= n; i++ {
			for _, c := range []audit.Checkpoint{checkpoints[n-1], checkpoints[max(i, n/2)-1]} {
				p := prove(t, dir, call(i).GetCallId(), c.Note)
				proven, err := audit.CheckProof(p, verifiers(t), c.Note)
				if err != nil || proven.Record.GetCallId() != call(i).GetCallId() || proven.Checkpoint.Size != c.Size {
					t.Fatalf("record %d of %d, checkpoint of %d: %+v, %v", i, n, c.Size, proven, err)
				}
			}
		}
	}
	if _, err := audit.Prove(dir, call(most).GetCallId(), checkpoints[most-2].Note); err == nil || !strings.Contains(err.Error(), "wait") {
		t.Errorf("a checkpoint from before the record: %v", err)
	}
}

// TestProofTampering changes every part of proofs.
func TestProofTampering(t *testing.T) {
	other := filepath.Join(t.TempDir(), "audit")
	l := open(t, audit.Config{Key: key, Dir: other})
	appendCalls(t, l, 101, 120)
	closed(t, l)
	for _, n := range []int{1, 2, 20} {
		dir := newLog(t, n, 900)
		p := prove(t, dir, call(1).GetCallId(), nil)
		foreign := prove(t, other, call(101).GetCallId(), nil)
		lines := func(change func(lines [][]byte) [][]byte) []byte {
			return bytes.Join(change(bytes.SplitAfter(bytes.Clone(p), []byte("\n"))), nil)
		}
		find := func(lines [][]byte, prefix string) int {
			for i, l := range lines {
				if bytes.HasPrefix(l, []byte(prefix)) {
					return i
				}
			}
			t.Fatalf("no line %q in\n%s", prefix, p)
			return 0
		}
		line := func(prefix string, change func([]byte) []byte) []byte {
			return lines(func(l [][]byte) [][]byte {
				i := find(l, prefix)
				l[i] = change(l[i])
				return l
			})
		}
		_, checkpoint, _ := bytes.Cut(p, []byte("\n\n"))
		_, foreignCheckpoint, _ := bytes.Cut(foreign, []byte("\n\n"))
		for name, changed := range map[string][]byte{
			"nothing":                   nil,
			"cut off":                   p[:len(p)-5],
			"magic":                     append([]byte("x"), p...),
			"record":                    line("extra ", func(b []byte) []byte { return flipped(t, b) }),
			"record left out":           lines(func(l [][]byte) [][]byte { i := find(l, "extra "); return append(l[:i], l[i+1:]...) }),
			"index":                     line("index ", func([]byte) []byte { return []byte("index 1\n") }),
			"index beyond all":          line("index ", func([]byte) []byte { return []byte("index 18446744073709551615\n") }),
			"a hash more":               line("index ", func(b []byte) []byte { return append(b, base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n"...) }),
			"checkpoint of another log": append(bytes.TrimSuffix(bytes.Clone(p), checkpoint), foreignCheckpoint...),
			"root":                      bytes.Replace(p, rootLine(t, checkpoint), []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n"), 1),
			"size of the checkpoint":    bytes.Replace(p, fmt.Appendf(nil, "\n%d\n", n), fmt.Appendf(nil, "\n%d\n", n+1), 1),
			"signature":                 line("— ", func(b []byte) []byte { b[len(b)-10] ^= 1; return b }),
			"signature left out":        lines(func(l [][]byte) [][]byte { return l[:find(l, "— ")] }),
			"record of another proof":   line("extra ", func([]byte) []byte { l := bytes.SplitAfter(foreign, []byte("\n")); return l[find(l, "extra ")] }),
		} {
			if _, err := audit.CheckProof(changed, verifiers(t), nil); err == nil {
				t.Errorf("%d records: %s: not found", n, name)
			}
		}
		if n > 1 {
			h := lines(func(l [][]byte) [][]byte {
				i := find(l, "index ") + 1
				l[i] = append([]byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), '\n')
				return l
			})
			if _, err := audit.CheckProof(h, verifiers(t), nil); err == nil {
				t.Errorf("%d records: hash: not found", n)
			}
		}
		if _, err := audit.CheckProof(p, verifiers(t), nil); err != nil {
			t.Errorf("%d records: untouched: %v", n, err)
		}
		if _, err := audit.CheckProof(p, nil, nil); err == nil {
			t.Error("checked without a key")
		}
		if _, err := audit.CheckProof(p, verifiers(t), foreignCheckpoint); err == nil {
			t.Error("checked against another log's checkpoint")
		}
		_, strange, _ := audit.GenerateKey("sallyport.test/audit")
		v, err := audit.ParseVerifiers(strange)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := audit.CheckProof(p, v, nil); err == nil {
			t.Error("checked with another key")
		}
	}
}

func rootLine(t testing.TB, checkpoint []byte) []byte {
	t.Helper()
	lines := bytes.SplitAfter(checkpoint, []byte("\n"))
	if len(lines) < 3 {
		t.Fatalf("no checkpoint: %s", checkpoint)
	}
	return lines[2]
}

// flipped changes a bit of what a line of base64 is of.
func flipped(t testing.TB, line []byte) []byte {
	t.Helper()
	word, text, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
	data, err := base64.StdEncoding.DecodeString(string(text))
	if err != nil {
		t.Fatal(err)
	}
	data[10] ^= 1
	return fmt.Appendf(nil, "%s %s\n", word, base64.StdEncoding.EncodeToString(data))
}
