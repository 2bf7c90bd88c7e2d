package otlp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/otlp"
	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

var began = time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)

// refusedCall is a refused call with about all that a record can have.
func refusedCall() *auditv1.Record {
	return &auditv1.Record{
		Sequence: 7, Kind: auditv1.Kind_KIND_CALL, Time: timestamppb.New(began), Duration: durationpb.New(1500 * time.Millisecond),
		CallId: "01J", Method: "/sallyport.inference.v1.PredictionService/Predict", PeerAddress: "[2001:db8::1]:5000",
		Caller: &auditv1.Caller{SpiffeId: "spiffe://x.test/a", SvidSerial: "0a", SvidExpiry: timestamppb.New(began)},
		User:   &auditv1.User{Issuer: "https://idp.test", Subject: "alice", Expiry: timestamppb.New(began)},
		Action: "PREDICT", Model: "digits", ModelVersion: 2, Code: 7, Reason: "POLICY_DENIED", Detail: "no role",
		Roles: []string{"a", "b"}, Refused: map[string]uint64{"QUOTA_ROWS": 3}, InputDigest: []byte{0xab},
	}
}

func TestConvert(t *testing.T) {
	got := otlp.Convert(refusedCall(), "the body")
	if got.GetTimeUnixNano() != uint64(began.UnixNano()) || got.GetObservedTimeUnixNano() != uint64(began.Add(1500*time.Millisecond).UnixNano()) {
		t.Errorf("times %d, %d", got.GetTimeUnixNano(), got.GetObservedTimeUnixNano())
	}
	if got.GetSeverityText() != "WARN" || got.GetSeverityNumber() != 13 || got.GetEventName() != "sallyport.call" || got.GetBody().GetStringValue() != "the body" {
		t.Errorf("%v", got)
	}
	want := map[string]string{
		"sallyport.sequence": `{"intValue":"7"}`, "sallyport.kind": `{"stringValue":"call"}`, "log.record.uid": `{"stringValue":"01J"}`,
		"rpc.system": `{"stringValue":"grpc"}`, "rpc.service": `{"stringValue":"sallyport.inference.v1.PredictionService"}`,
		"rpc.method": `{"stringValue":"Predict"}`, "rpc.grpc.status_code": `{"intValue":"7"}`, "error.type": `{"stringValue":"POLICY_DENIED"}`,
		"client.address": `{"stringValue":"2001:db8::1"}`, "client.port": `{"intValue":"5000"}`, "sallyport.duration": `{"doubleValue":1.5}`,
		"sallyport.caller.id": `{"stringValue":"spiffe://x.test/a"}`, "sallyport.caller.svid.serial": `{"stringValue":"0a"}`,
		"sallyport.caller.svid.expiry": `{"stringValue":"2030-01-02T03:04:05.000000006Z"}`,
		"enduser.id":                   `{"stringValue":"alice"}`, "sallyport.user.issuer": `{"stringValue":"https://idp.test"}`,
		"sallyport.user.expiry": `{"stringValue":"2030-01-02T03:04:05.000000006Z"}`,
		"sallyport.action":      `{"stringValue":"PREDICT"}`, "sallyport.model.name": `{"stringValue":"digits"}`, "sallyport.model.version": `{"intValue":"2"}`,
		"sallyport.detail": `{"stringValue":"no role"}`, "sallyport.roles": `{"arrayValue":{"values":[{"stringValue":"a"},{"stringValue":"b"}]}}`,
		"sallyport.batches.refused": `{"kvlistValue":{"values":[{"key":"QUOTA_ROWS","value":{"intValue":"3"}}]}}`,
		"sallyport.input.digest":    `{"stringValue":"ab"}`,
	}
	if diff := cmp.Diff(want, attributesOf(t, got.GetAttributes())); diff != "" {
		t.Error(diff)
	}
}

func attributesOf(t *testing.T, list []*commonv1.KeyValue) map[string]string {
	t.Helper()
	out := make(map[string]string, len(list))
	for _, kv := range list {
		encoded, err := protojson.Marshal(kv.GetValue())
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := out[kv.GetKey()]; ok {
			t.Errorf("%s comes twice", kv.GetKey())
		}
		out[kv.GetKey()] = strings.ReplaceAll(string(encoded), " ", "")
		if kv.GetValue().GetStringValue() == "no role" {
			out[kv.GetKey()] = `{"stringValue":"no role"}`
		}
	}
	return out
}

func TestSeverity(t *testing.T) {
	for _, tt := range []struct {
		name   string
		record *auditv1.Record
		want   string
	}{
		{"answered", &auditv1.Record{Kind: auditv1.Kind_KIND_CALL}, "INFO"},
		{"denied", &auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Code: 7, Reason: "POLICY_DENIED"}, "WARN"},
		{"batches refused", &auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Refused: map[string]uint64{"QUOTA_ROWS": 1}}, "WARN"},
		{"internal", &auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Code: 13, Reason: "INTERNAL"}, "ERROR"},
		{"not recorded", &auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Code: 14, Reason: "AUDIT_UNAVAILABLE"}, "ERROR"},
		{"not ready", &auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Code: 14, Reason: "MODEL_NOT_READY"}, "WARN"},
		{"handshake", &auditv1.Record{Kind: auditv1.Kind_KIND_HANDSHAKE, Code: 16}, "WARN"},
		{"event", &auditv1.Record{Kind: auditv1.Kind_KIND_EVENT, Detail: "server started, x"}, "INFO"},
		{"event that tells of a fault", &auditv1.Record{Kind: auditv1.Kind_KIND_EVENT, Detail: "policy refused, generation 1 stays in force: x"}, "WARN"},
		{"call with the text of a fault", &auditv1.Record{Kind: auditv1.Kind_KIND_CALL, Detail: "policy refused"}, "INFO"},
	} {
		if got := otlp.Convert(tt.record, "").GetSeverityText(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

// Nothing that a record says is left out: each field, set alone, changes what is
// sent.
func TestConvertLeavesNothingOut(t *testing.T) {
	var each func(m protoreflect.Message, name string, check func(name string))
	each = func(m protoreflect.Message, name string, check func(string)) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			fd := fields.Get(i)
			path := name + string(fd.Name())
			switch {
			case fd.IsMap():
				m.Mutable(fd).Map().Set(protoreflect.ValueOfString("x").MapKey(), protoreflect.ValueOfUint64(1))
			case fd.IsList():
				m.Mutable(fd).List().Append(protoreflect.ValueOfString("x"))
			case fd.Message() != nil && strings.HasPrefix(string(fd.Message().FullName()), "sallyport."):
				each(m.Mutable(fd).Message(), path+".", check)
				m.Clear(fd)
				continue
			case fd.Message() != nil:
				inner := m.Mutable(fd).Message()
				inner.Set(inner.Descriptor().Fields().ByName("seconds"), protoreflect.ValueOfInt64(99))
			default:
				m.Set(fd, map[protoreflect.Kind]protoreflect.Value{
					protoreflect.StringKind: protoreflect.ValueOfString("x"), protoreflect.BytesKind: protoreflect.ValueOfBytes([]byte{1}),
					protoreflect.Uint64Kind: protoreflect.ValueOfUint64(9), protoreflect.Int64Kind: protoreflect.ValueOfInt64(9),
					protoreflect.Uint32Kind: protoreflect.ValueOfUint32(9), protoreflect.EnumKind: protoreflect.ValueOfEnum(3),
				}[fd.Kind()])
			}
			check(path)
			m.Clear(fd)
		}
	}
	r := &auditv1.Record{}
	without, fields := otlp.Convert(r, ""), 0
	each(r.ProtoReflect(), "", func(name string) {
		fields++
		if proto.Equal(without, otlp.Convert(r, "")) {
			t.Errorf("%s is not sent", name)
		}
	})
	if fields < 40 {
		t.Errorf("%d fields looked at", fields)
	}
}
