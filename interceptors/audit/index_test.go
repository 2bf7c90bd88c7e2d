package audit_test

import (
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// at is a call at so many seconds.
func at(i int) *auditv1.Record {
	r := call(i)
	r.Time = timestamppb.New(epoch.Add(time.Duration(i) * time.Second))
	return r
}

// An index is of what is in its segment, not of what an error took back.
func TestIndexAfterAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := audit.Config{Key: key, Dir: filepath.Join(t.TempDir(), "audit")}
		var d disk
		l := open(t, cfg.WithSync(d.sync))
		if err := l.Append(t.Context(), at(1), audit.Required); err != nil {
			t.Fatal(err)
		}
		d.fail(syscall.EIO, "")
		if err := l.Append(t.Context(), at(2), audit.Required); err == nil {
			t.Fatal("appended to a disk that fails")
		}
		d.fail(nil, "")
		recovered(t, l)
		if err := l.Append(t.Context(), at(3), audit.Required); err != nil {
			t.Fatal(err)
		}
		closed(t, l)
		if report := verify(t, cfg.Dir); report.Segments != 2 || report.Records != 2 {
			t.Errorf("%+v, want 2 records in 2 segments", report)
		}
	})
}
