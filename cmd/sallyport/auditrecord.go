package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// recordLine has columns of fixed width, so that following needs no look ahead.
const recordLine = "%-24s  %-30s  %-14s  %-16s  %5s  %-18s  %9s  %s\n"

func writeRecordHeader(w io.Writer) error {
	_, err := fmt.Fprintf(w, recordLine, "TIME", "CALLER", "ACTION", "MODEL", "ROWS", "RESULT", "DURATION", "CALL OR DETAIL")
	return err
}

func writeRecord(w io.Writer, r *auditv1.Record) error {
	caller := cmp.Or(strings.TrimPrefix(r.GetCaller().GetSpiffeId(), "spiffe://"), r.GetPeerAddress(), "-")
	if user := r.GetUser(); user != nil {
		caller += " for " + user.GetSubject()
	}
	model := cmp.Or(r.GetModel(), "-")
	if r.GetModelVersion() > 0 {
		model += "/" + strconv.FormatInt(r.GetModelVersion(), 10)
	}
	duration := "-"
	if r.GetDuration() != nil {
		duration = r.GetDuration().AsDuration().Round(time.Microsecond).String()
	}
	action, rows, result, last := cmp.Or(r.GetAction(), r.GetMethod(), "-"), "-", "-", r.GetDetail()
	switch r.GetKind() {
	case auditv1.Kind_KIND_CALL, auditv1.Kind_KIND_UNSPECIFIED:
		rows, last = strconv.FormatUint(r.GetRowsReceived(), 10), r.GetCallId()
		result = cmp.Or(r.GetReason(), codeName(codes.Code(r.GetCode()))) // a reason has one code
	case auditv1.Kind_KIND_HANDSHAKE:
		action, result = "(handshake)", cmp.Or(r.GetReason(), codeName(codes.Code(r.GetCode())))
	case auditv1.Kind_KIND_EVENT:
		action, result = "(event)", cmp.Or(r.GetReason(), "-")
	case auditv1.Kind_KIND_KEY:
		action, last = "(key)", ownText(r)
	case auditv1.Kind_KIND_RETENTION:
		action, last = "(retention)", ownText(r)
	}
	if len(r.GetSealed()) > 0 {
		rows, result, last = "-", "-", strings.TrimSpace(r.GetCallId()+" ("+sealedText+")")
	}
	_, err := fmt.Fprintf(w, recordLine, r.GetTime().AsTime().UTC().Format("2006-01-02T15:04:05.000Z"),
		printable(caller), printable(action), printable(model), rows, printable(result), duration, printable(last))
	return err
}

const sealedText = "sealed: its key is needed to read more"

// ownText says what a record of the log's own is about.
func ownText(r *auditv1.Record) string {
	switch r.GetKind() {
	case auditv1.Kind_KIND_KEY:
		return fmt.Sprintf("records behind it are sealed with key %s, which %s keeps", r.GetWrappedKey().GetId(), r.GetWrappedKey().GetKeeper())
	case auditv1.Kind_KIND_RETENTION:
		return fmt.Sprintf("records 1 to %d may be missing from now on", r.GetRemovedThrough())
	default:
		return r.GetDetail()
	}
}

// recordSentence says what a record is about on one line, by itself.
func recordSentence(r *auditv1.Record) string {
	who := cmp.Or(r.GetCaller().GetSpiffeId(), "nobody known")
	if user := r.GetUser(); user != nil {
		who += " for " + user.GetSubject()
	}
	what := cmp.Or(r.GetAction(), r.GetMethod(), "call")
	if r.GetModel() != "" {
		what += " " + r.GetModel()
	}
	if r.GetModelVersion() > 0 {
		what += "/" + strconv.FormatInt(r.GetModelVersion(), 10)
	}
	result := codeName(codes.Code(r.GetCode()))
	if r.GetReason() != "" && r.GetReason() != result {
		result += " (" + r.GetReason() + ")"
	}
	if r.GetDetail() != "" {
		result += ": " + r.GetDetail()
	}
	var s string
	switch r.GetKind() {
	case auditv1.Kind_KIND_CALL, auditv1.Kind_KIND_UNSPECIFIED:
		s = fmt.Sprintf("%s by %s: %s", what, who, result)
	case auditv1.Kind_KIND_HANDSHAKE:
		s = fmt.Sprintf("handshake with %s refused: %s", cmp.Or(r.GetPeerAddress(), "a peer"), result)
	case auditv1.Kind_KIND_EVENT:
		s = r.GetDetail()
	default:
		s = ownText(r)
	}
	if len(r.GetSealed()) > 0 {
		s = strings.TrimSpace(sealedText + " " + r.GetCallId())
	}
	return printable(s)
}
