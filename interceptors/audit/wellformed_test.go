package audit_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// FuzzWellFormed compares what Verify accepts as a record with what can be decoded.
func FuzzWellFormed(f *testing.F) {
	whole := call(1)
	whole.Roles = []string{"reader", "other"}
	whole.Refused = map[string]uint64{"QUOTA_ROWS": 2}
	whole.InputDigest = []byte{0xff, 0xfe}
	encoded, err := proto.Marshal(whole)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded)
	f.Add(encoded[:len(encoded)-1])
	f.Add([]byte{0x2a, 0x01, 0xff})             // a call id that is no text
	f.Add([]byte{0x1a, 0x02, 0x08})             // a time that is cut off
	f.Add([]byte{0x28, 0x01})                   // a call id that is a number
	f.Add([]byte{0x2b, 0x2c})                   // a group in its place
	f.Add([]byte{0x00})                         // field 0
	f.Add([]byte{0xfa, 0xff, 0xff, 0xff, 0x0f}) // a field beyond all
	f.Fuzz(func(t *testing.T, b []byte) {
		err := proto.Unmarshal(b, new(auditv1.Record))
		if got := audit.WellFormed(b); got != (err == nil) {
			t.Errorf("%x is accepted: %v, but decoding it says: %v", b, got, err)
		}
	})
}
