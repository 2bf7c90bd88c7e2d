package target

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/bench/load"
	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// Answers are the calls that a server answered, by their id, as its client saw
// them: what must be on record.
type Answers struct {
	mu sync.Mutex // guards what follows
	// codes is what each was answered with.
	codes map[string]codes.Code
	// without counts answers without an id: a call that the server never saw.
	without map[string]int
}

// Caller makes calls like Unary and remembers their answers.
func (a *Answers) Caller(conn *grpc.ClientConn, request []byte) load.Caller {
	return load.CallerFunc(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		var answer reply
		var header metadata.MD
		err := conn.Invoke(ctx, inferencev1.PredictionService_Predict_FullMethodName, message{request}, &answer,
			grpc.ForceCodecV2(codec{}), grpc.Header(&header))
		a.add(header, err)
		return err
	})
}

func (a *Answers) add(header metadata.MD, err error) {
	id := ""
	if ids := header.Get(interceptors.CallIDHeader); len(ids) > 0 {
		id = ids[0]
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RequestInfo); ok {
			id = info.GetRequestId()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.codes == nil {
		a.codes, a.without = map[string]codes.Code{}, map[string]int{}
	}
	if id == "" {
		a.without[Reason(err)]++
		return
	}
	a.codes[id] = status.Code(err)
}

// Recorded is what the log of a server has of the answers.
type Recorded struct {
	// Calls are on record, Answered were told to the client with an id.
	Calls, Answered int
	// Missing are answered and not on record, Twice are there more than once, Other
	// are there with another code.
	Missing, Twice, Other int
	// Without are calls that failed without an id, by kind.
	Without map[string]int
	// Fine and Refused are how long calls took by the server's own clock, from their
	// headers to their record: those that began after a time, by whether their code
	// is OK.
	Fine, Refused *load.Histogram
	// Verified is what `sallyport audit verify` printed.
	Verified string
}

// Err says what is wrong.
func (r *Recorded) Err() error {
	if r.Missing+r.Twice+r.Other > 0 {
		return fmt.Errorf("of %d answered calls %d are not on record, %d are twice, %d with another code",
			r.Answered, r.Missing, r.Twice, r.Other)
	}
	return nil
}

// Compare verifies the log of a server that has ended and holds it against the
// answers. What began after since is looked at closely.
func (a *Answers) Compare(ctx context.Context, s *Site, p *Process, since time.Time) (*Recorded, error) {
	out, err := exec.CommandContext(ctx, s.cfg.Sallyport, "audit", "verify", p.Audit, "--public-key", p.Verifier).CombinedOutput() //nolint:gosec // what is measured
	if err != nil {
		return nil, fmt.Errorf("audit verify: %w: %s", err, out)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &Recorded{Answered: len(a.codes), Without: a.without, Verified: string(out), Fine: load.NewHistogram(), Refused: load.NewHistogram()}
	seen := make(map[string]codes.Code, len(a.codes))
	for record, err := range (audit.View{Dir: p.Audit}).Records(ctx, 0) {
		if err != nil {
			return nil, err
		}
		if record.GetKind() != auditv1.Kind_KIND_CALL {
			continue
		}
		r.Calls++
		if _, twice := seen[record.GetCallId()]; twice {
			r.Twice++
		}
		if record.GetTime().AsTime().After(since) {
			h := r.Fine
			if codes.Code(record.GetCode()) != codes.OK {
				h = r.Refused
			}
			h.Add(record.GetDuration().AsDuration())
		}
		seen[record.GetCallId()] = codes.Code(record.GetCode())
	}
	for id, code := range a.codes {
		switch recorded, there := seen[id]; {
		case !there:
			r.Missing++
		case recorded != code:
			r.Other++
		}
	}
	return r, nil
}

// Spread dials each caller so many times and returns for every i a connection, the
// callers taking turns; end closes them all.
func (s *Site) Spread(p *Process, each int) (conn func(i int) *grpc.ClientConn, end func() error, err error) {
	var conns []*grpc.ClientConn
	end = func() error {
		var errs []error
		for _, c := range conns {
			errs = append(errs, c.Close())
		}
		return errors.Join(errs...)
	}
	for range each {
		for i := range s.sources {
			c, err := s.Dial(p, i)
			if err != nil {
				return nil, nil, errors.Join(err, end())
			}
			conns = append(conns, c)
		}
	}
	return func(i int) *grpc.ClientConn { return conns[i%len(conns)] }, end, nil
}

// Capacity is how many calls a second a server answers that always has enough to
// do and never so much that it refuses.
func Capacity(ctx context.Context, caller func(i int) load.Caller, callers int, warmup, d time.Duration) (float64, error) {
	r, err := load.Run(ctx, load.Config{Callers: callers, Warmup: warmup, Duration: d, Kind: Reason},
		func(i int) (load.Caller, error) { return caller(i), nil })
	if err != nil {
		return 0, err
	}
	if kinds := r.Kinds(); len(kinds) > 0 {
		if callers > 1 && len(kinds) == 1 && kinds[0] == "OVERLOADED" {
			return Capacity(ctx, caller, callers/2, warmup, d) // so many are too many for a busy machine
		}
		return 0, fmt.Errorf("capacity: %d calls at once and already %d of %s", callers, r.Errors[kinds[0]], kinds[0])
	}
	if r.Calls == 0 && d < 10*time.Second {
		return Capacity(ctx, caller, callers, warmup, 4*d)
	}
	if r.Calls == 0 {
		return 0, fmt.Errorf("capacity: no call was answered within %v", d)
	}
	return r.Rate(), nil
}
