package otlp

import (
	"cmp"
	"encoding/hex"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit/report"
)

// convert makes a log record of r, with all that r says; body is a line about it
// for people. What it was observed at is when it was recorded, not when it is
// sent: sent again, it is the same.
func convert(r *auditv1.Record, body string) *logsv1.LogRecord {
	begun := r.GetTime().AsTime()
	severity := severityOf(r)
	return &logsv1.LogRecord{
		TimeUnixNano:         nanos(begun),
		ObservedTimeUnixNano: nanos(begun.Add(r.GetDuration().AsDuration())),
		SeverityNumber:       severity,
		SeverityText:         strings.TrimPrefix(severity.String(), "SEVERITY_NUMBER_"),
		EventName:            "sallyport." + kindOf(r),
		Body:                 &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: body}},
		Attributes:           attributesOf(r),
	}
}

// severityOf is ERROR for what went wrong on our side, WARN for what was refused
// or that somebody should look after, INFO for all else.
func severityOf(r *auditv1.Record) logsv1.SeverityNumber {
	failed := code.Code(r.GetCode()) //nolint:gosec // codes are 0 to 16
	_, fault := report.Classify(r.GetDetail())
	switch {
	case failed == code.Code_INTERNAL, failed == code.Code_UNKNOWN, failed == code.Code_DATA_LOSS, r.GetReason() == "AUDIT_UNAVAILABLE":
		return logsv1.SeverityNumber_SEVERITY_NUMBER_ERROR
	case failed != code.Code_OK, len(r.GetRefused()) > 0, r.GetKind() == auditv1.Kind_KIND_EVENT && fault:
		return logsv1.SeverityNumber_SEVERITY_NUMBER_WARN
	}
	return logsv1.SeverityNumber_SEVERITY_NUMBER_INFO
}

// kindOf is what a record is about, in a word.
func kindOf(r *auditv1.Record) string {
	return strings.ToLower(strings.TrimPrefix(r.GetKind().String(), "KIND_"))
}

func attributesOf(r *auditv1.Record) []*commonv1.KeyValue {
	a := make(attributes, 0, 40)
	a.number(attrSequence, r.GetSequence())
	a.text(attrKind, kindOf(r))
	a.text(attrRecordUID, r.GetCallId())
	if m := r.GetMethod(); m != "" {
		a.text(attrRPCSystem, "grpc")
		service, method, ok := strings.Cut(strings.TrimPrefix(m, "/"), "/")
		if !ok {
			service, method = "", m
		}
		a.text(attrRPCService, service)
		a.text(attrRPCMethod, method)
	}
	if k := r.GetKind(); k == auditv1.Kind_KIND_CALL || k == auditv1.Kind_KIND_HANDSHAKE || r.GetCode() != 0 {
		if len(r.GetSealed()) == 0 {
			a.whole(attrRPCStatus, int64(r.GetCode()))
		}
	}
	if r.GetCode() != 0 || r.GetReason() != "" {
		a.text(attrErrorType, cmp.Or(r.GetReason(), code.Code(r.GetCode()).String())) //nolint:gosec // codes are 0 to 16
	}
	a.peer(r.GetPeerAddress())
	a.span(attrDuration, r.GetDuration())
	a.text(attrCaller, r.GetCaller().GetSpiffeId())
	a.text(attrSVIDSerial, r.GetCaller().GetSvidSerial())
	a.moment(attrSVIDExpiry, r.GetCaller().GetSvidExpiry())
	a.text(attrClaimed, r.GetClaimedId())
	a.text(attrEndUser, r.GetUser().GetSubject())
	a.text(attrUserIssuer, r.GetUser().GetIssuer())
	a.moment(attrUserExpiry, r.GetUser().GetExpiry())
	a.text(attrAction, r.GetAction())
	a.text(attrModel, r.GetModel())
	a.positive(attrModelVersion, uint64(max(r.GetModelVersion(), 0)))
	a.text(attrModelDigest, r.GetModelDigest())
	a.span(attrModelDuration, r.GetModelDuration())
	a.text(attrDetail, r.GetDetail())
	a.texts(attrRoles, r.GetRoles())
	a.text(attrDecision, r.GetDecision())
	a.positive(attrPolicyGeneration, r.GetPolicyGeneration())
	a.text(attrPolicyDigest, r.GetPolicyDigest())
	if s := r.GetShadow(); s != nil {
		a.text(attrShadowDigest, s.GetPolicyDigest())
		a.text(attrShadowDecision, s.GetDecision())
		a.text(attrShadowDetail, s.GetDetail())
		a.number(attrShadowAllow, s.GetWouldAllow())
		a.number(attrShadowDeny, s.GetWouldDeny())
	}
	a.positive(attrMessagesReceived, r.GetMessagesReceived())
	a.positive(attrMessagesSent, r.GetMessagesSent())
	a.positive(attrBytesReceived, r.GetBytesReceived())
	a.positive(attrBytesSent, r.GetBytesSent())
	a.positive(attrRowsReceived, r.GetRowsReceived())
	a.positive(attrRowsRun, r.GetRowsRun())
	a.counts(attrRefused, r.GetRefused())
	a.text(attrInputDigest, hex.EncodeToString(r.GetInputDigest()))
	a.positive(attrRemovedThrough, r.GetRemovedThrough())
	a.text(attrRemoval, r.GetRemoval())
	a.text(attrKeyID, r.GetWrappedKey().GetId())
	a.text(attrKeyKeeper, r.GetWrappedKey().GetKeeper())
	a.bytes(attrKeyCiphertext, r.GetWrappedKey().GetCiphertext())
	if len(r.GetSealed()) > 0 {
		a.add(attrSealed, &commonv1.AnyValue{Value: &commonv1.AnyValue_BoolValue{BoolValue: true}})
	}
	return a
}

// attributes are added to if there is something to say.
type attributes []*commonv1.KeyValue

func (a *attributes) add(key string, v *commonv1.AnyValue) {
	*a = append(*a, &commonv1.KeyValue{Key: key, Value: v})
}

func (a *attributes) text(key, s string) {
	if s != "" {
		a.add(key, textValue(s))
	}
}

func (a *attributes) bytes(key string, b []byte) {
	if len(b) > 0 {
		a.add(key, &commonv1.AnyValue{Value: &commonv1.AnyValue_BytesValue{BytesValue: b}})
	}
}

func (a *attributes) whole(key string, n int64) {
	a.add(key, &commonv1.AnyValue{Value: &commonv1.AnyValue_IntValue{IntValue: n}})
}

func (a *attributes) number(key string, n uint64) { a.whole(key, int64(min(n, math.MaxInt64))) }

func (a *attributes) positive(key string, n uint64) {
	if n > 0 {
		a.number(key, n)
	}
}

func (a *attributes) span(key string, d *durationpb.Duration) {
	if d != nil {
		a.add(key, &commonv1.AnyValue{Value: &commonv1.AnyValue_DoubleValue{DoubleValue: d.AsDuration().Seconds()}})
	}
}

func (a *attributes) moment(key string, t *timestamppb.Timestamp) {
	if t != nil {
		a.text(key, t.AsTime().Format(time.RFC3339Nano))
	}
}

func (a *attributes) peer(address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		a.text(attrClientAddress, address)
		return
	}
	a.text(attrClientAddress, host)
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		a.number(attrClientPort, n)
	}
}

func (a *attributes) texts(key string, list []string) {
	if len(list) == 0 {
		return
	}
	values := make([]*commonv1.AnyValue, len(list))
	for i, s := range list {
		values[i] = textValue(s)
	}
	a.add(key, &commonv1.AnyValue{Value: &commonv1.AnyValue_ArrayValue{ArrayValue: &commonv1.ArrayValue{Values: values}}})
}

func (a *attributes) counts(key string, counts map[string]uint64) {
	if len(counts) == 0 {
		return
	}
	var list attributes
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		list.number(name, counts[name])
	}
	a.add(key, &commonv1.AnyValue{Value: &commonv1.AnyValue_KvlistValue{KvlistValue: &commonv1.KeyValueList{Values: list}}})
}

func textValue(s string) *commonv1.AnyValue {
	return &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: s}}
}

// nanos are nanoseconds since 1970; 0, which OTLP takes for unknown, before.
func nanos(t time.Time) uint64 { return uint64(max(t.UnixNano(), 0)) }
