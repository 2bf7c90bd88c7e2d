package otlp

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// Cursor is how far a log is dealt with. The zero Cursor is before its first
// record.
type Cursor struct {
	// Sequence of the last record dealt with.
	Sequence uint64 `json:"sequence"`
	// Record is a hash of what is open to read of that record, so that a cursor is
	// not taken for one of another log.
	Record string `json:"record"`
}

// cursorAt is the cursor behind a record.
func cursorAt(r *auditv1.Record) Cursor {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d %d %d %d %q", r.GetSequence(), r.GetKind(), r.GetTime().GetSeconds(), r.GetTime().GetNanos(), r.GetCallId()) // a hash takes all
	return Cursor{r.GetSequence(), hex.EncodeToString(h.Sum(nil))}
}

// LoadCursor reads a cursor; if there is no file, it is the zero Cursor.
func LoadCursor(file string) (Cursor, error) {
	data, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if errors.Is(err, fs.ErrNotExist) {
		return Cursor{}, nil
	}
	if err != nil {
		return Cursor{}, err
	}
	var c Cursor
	if err := json.Unmarshal(data, &c); err != nil || c.Sequence == 0 || c.Record == "" {
		return Cursor{}, fmt.Errorf("%s is not a cursor", file)
	}
	return c, nil
}

// Save writes the cursor, whole or not at all, and to the disk before it returns.
func (c Cursor) Save(file string) (err error) {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, filepath.Base(file)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return err
	}
	d, err := os.Open(dir) //nolint:gosec // the operator names it
	if err != nil {
		return nil // the rename holds, if not through a power cut
	}
	_ = d.Sync() // as above
	return d.Close()
}

// Resume is the sequence to go on from in a log that records reads. It is an
// error if the log does not hold the cursor's record as it was.
func (c Cursor) Resume(records func(from uint64) iter.Seq2[*auditv1.Record, error]) (uint64, error) {
	if c.Sequence == 0 {
		return 1, nil
	}
	for r, err := range records(c.Sequence) {
		switch {
		case err != nil:
			return 0, err
		case r.GetSequence() == c.Sequence && cursorAt(r) != c:
			return 0, fmt.Errorf("record %d is not the one that the cursor stands at: it is of another log", c.Sequence)
		}
		return c.Sequence + 1, nil // a record that retention removed cannot be compared
	}
	return 0, fmt.Errorf("the log ends before record %d, where the cursor stands: it is of another log, or the log was cut off", c.Sequence)
}
