package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// filterFlags are the flags that select records of the audit log. What they ask
// for is in filter once they are resolved.
type filterFlags struct {
	codes, reasons, kinds []string
	peer, since, until    string
	filter                audit.Filter
	keys                  keyFlags
	pseudonym             pseudonymFlags
}

// kindNames are the kinds of records as flags name them.
var kindNames = map[string]auditv1.Kind{
	"call":      auditv1.Kind_KIND_CALL,
	"handshake": auditv1.Kind_KIND_HANDSHAKE,
	"event":     auditv1.Kind_KIND_EVENT,
	"key":       auditv1.Kind_KIND_KEY,
	"retention": auditv1.Kind_KIND_RETENTION,
}

// allKinds is the word for every kind, the log's own too.
const allKinds = "all"

// notOwn are all kinds but the log's own. A kind that this program does not know
// is not among them.
var notOwn = []auditv1.Kind{auditv1.Kind_KIND_CALL, auditv1.Kind_KIND_HANDSHAKE, auditv1.Kind_KIND_EVENT}

func (f *filterFlags) define(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.filter.Caller, "caller", "", "SPIFFE ID of the caller, also as claimed in a refused handshake; with /* at its end, all below it")
	s.StringVar(&f.filter.Serial, "serial", "", "serial number of the caller's X.509-SVID, hexadecimal")
	s.StringVar(&f.peer, "peer", "", "address of the peer, without a port, or a network such as 10.0.0.0/8")
	s.StringVar(&f.filter.User, "user", "", "subject of the user on whose behalf the call was made")
	f.keys.register(cmd)
	f.pseudonym.register(cmd)
	s.StringVar(&f.filter.UserIssuer, "user-issuer", "", "issuer of the user's token")
	s.StringVar(&f.filter.Role, "role", "", "role that allowed the call, or would have had to")
	s.StringVar(&f.filter.Model, "model", "", "name of the model; with * at its end, a prefix")
	s.StringVar(&f.filter.Action, "action", "", "action, such as PREDICT")
	completeWords(cmd, "action", actions()...)
	s.StringSliceVar(&f.codes, "code", nil, "status code, such as PERMISSION_DENIED or 7; OK for calls that were answered; several: any of them")
	completeWords(cmd, "code", codeNames()...)
	s.StringSliceVar(&f.reasons, "reason", nil, "reason of the refusal, such as POLICY_DENIED; several: any of them")
	completeWords(cmd, "reason", recordReasons...)
	s.StringVar(&f.filter.CallID, "call", "", "id of the call")
	words := append(slices.Sorted(maps.Keys(kindNames)), allKinds)
	s.StringSliceVar(&f.kinds, "kind", nil, "what the record is about: "+strings.Join(words, ", ")+"; several: any of them")
	completeWords(cmd, "kind", words...)
	s.StringVar(&f.since, "since", "", "earliest time, or how long ago")
	s.StringVar(&f.until, "until", "", "time before which it must be, or how long ago")
}

// resolve completes the filter from the flags that are not the filter's own.
func (f *filterFlags) resolve(now time.Time) error {
	var errs []error
	fault := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if c := f.filter.Caller; c != "" && !strings.Contains(c, "://") {
		f.filter.Caller = "spiffe://" + c // as the table writes it
	}
	f.filter.Action = strings.ToUpper(f.filter.Action)
	if f.filter.Action != "" && !slices.Contains(actions(), f.filter.Action) {
		fault(fmt.Errorf("--action %q: must be one of %s", f.filter.Action, strings.Join(actions(), ", ")))
	}
	for _, s := range f.codes {
		c, err := parseCode(s)
		fault(err)
		f.filter.Codes = append(f.filter.Codes, c)
	}
	for _, s := range f.reasons {
		reason := strings.ToUpper(s)
		if !slices.Contains(recordReasons, reason) {
			fault(fmt.Errorf("--reason %q: must be one of %s", reason, strings.Join(recordReasons, ", ")))
		}
		f.filter.Reasons = append(f.filter.Reasons, reason)
	}
	fault(f.resolveKinds())
	var err error
	f.filter.User, err = f.pseudonym.onRecord(f.filter.User)
	fault(err)
	f.filter.Peer, err = parsePeer(f.peer)
	fault(err)
	if f.filter.Since, err = parseTime(f.since, now); err != nil {
		fault(fmt.Errorf("--since %w", err))
	}
	if f.filter.Until, err = parseTime(f.until, now); err != nil {
		fault(fmt.Errorf("--until %w", err))
	}
	return errors.Join(errs...)
}

func (f *filterFlags) resolveKinds() error {
	for _, s := range f.kinds {
		kind, ok := kindNames[strings.ToLower(s)]
		switch {
		case strings.EqualFold(s, allKinds):
			f.filter.Kinds = []auditv1.Kind{} // all, and not left to the command
			return nil
		case !ok:
			return fmt.Errorf("--kind %q: must be one of %s, %s", s, strings.Join(slices.Sorted(maps.Keys(kindNames)), ", "), allKinds)
		}
		f.filter.Kinds = append(f.filter.Kinds, kind)
	}
	return nil
}

// parsePeer is an address or a network; invalid if s is empty.
func parsePeer(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	if prefix, err := netip.ParsePrefix(s); err == nil {
		return prefix, nil
	}
	addr, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--peer %q: must be an address without a port, or a network such as 10.0.0.0/8", s)
	}
	addr = addr.Unmap().WithZone("")
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

func codeNames() []string {
	var names []string
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		names = append(names, codeName(c))
	}
	return names
}

func parseCode(s string) (uint32, error) {
	if n, ok := code.Code_value[strings.ToUpper(s)]; ok {
		return uint32(n), nil //nolint:gosec // codes are 0 to 16
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > uint64(codes.Unauthenticated) {
		return 0, fmt.Errorf("--code %q: must be one of %s, or its number", s, strings.Join(codeNames(), ", "))
	}
	return uint32(n), nil
}

// parseTime is a time as in RFC 3339, or as how long before now; zero if s is
// empty.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(s); err == nil {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q: must be a time such as %s, or how long ago, such as 90m", s, now.UTC().Format(time.RFC3339))
	}
	return at, nil
}
