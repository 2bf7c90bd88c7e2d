package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// Report is what Verify found, up to the first thing that does not fit.
type Report struct {
	// Segments is the number of segment files.
	Segments int
	// Records is the number of records, hence the last one's sequence.
	Records uint64
	// Bytes is the length of all segments without a torn tail.
	Bytes int64
	// First and Last are the times of the first and the last record.
	First, Last time.Time
	// Head is the chain hash after the last record, hexadecimal. Kept where the
	// log's owner cannot reach it, it proves later what the log was.
	Head string
	// TornTail is the length in bytes of what a crash, or a commit that is being
	// written right now, left behind the last record. Open cuts it off.
	TornTail int64
}

// Verify rehashes every record in dir. It returns a *TamperError that names the
// first place that does not fit: a byte changed anywhere, a record dropped,
// inserted or moved, a segment missing, renamed or there twice. Memory is
// bounded whatever the files hold. The log may be written to meanwhile.
//
// Each of heads, a Report.Head from earlier, has to occur in the log. Without
// one, neither records cut off at the very end nor a log replaced as a whole by
// somebody who hashed it anew can be seen: the chain has no key.
func Verify(dir string, heads ...string) (Report, error) {
	missing := make(map[hash]string, len(heads))
	for _, head := range heads {
		b, err := hex.DecodeString(head)
		if err != nil || len(b) != len(hash{}) {
			return Report{}, fmt.Errorf("verify audit log: head %q is not %d hexadecimal bytes", head, len(hash{}))
		}
		missing[hash(b)] = head
	}
	r, err := openReader(dir, 1)
	if err != nil {
		return Report{}, fmt.Errorf("verify audit log: %w", err)
	}
	defer r.close()
	report, err := r.verify(missing)
	if err != nil {
		return report, fmt.Errorf("verify audit log: %w", err)
	}
	return report, nil
}

func (r *reader) verify(missing map[hash]string) (report Report, err error) {
	defer func() {
		report.Segments = r.segments
		report.Records = r.seq
		report.Bytes = r.bytes + r.off
		report.Head = hex.EncodeToString(r.chain.sum[:])
		report.TornTail = r.torn
	}()
	for {
		delete(missing, r.chain.sum)
		raw, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return report, err
		}
		record, err := r.decode(raw)
		if err != nil {
			return report, err
		}
		if r.seq == 1 {
			report.First = record.GetTime().AsTime()
		}
		report.Last = record.GetTime().AsTime()
	}
	for _, head := range missing {
		return report, r.tampered(fmt.Sprintf("head %s does not occur: the log was cut off or replaced", head))
	}
	return report, nil
}
