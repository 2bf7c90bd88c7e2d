package peers

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/sallyport/sallyport/bench/load"
	"github.com/sallyport/sallyport/bench/process"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// who is a caller, as each peer knows it: by an SVID or by an API key.
type who int

const (
	// bench may call both models.
	bench who = iota
	// narrow may not call the second.
	narrow
	// stranger has no SVID, or a key that nobody gave out.
	stranger
)

// question is what is asked of a model.
type question struct {
	who      who
	model    string
	features *inferencev1.Tensor
}

// asked is a question in the form that a peer takes, made beforehand.
type asked interface {
	// Caller makes caller i, which asks again and again.
	Caller(i int) load.Caller
	// Answer asks once.
	Answer(ctx context.Context) (*Answer, error)
}

// peer is one way to serve the models.
type peer struct {
	name      string
	processes []*process.Process
	ask       func(question) (asked, error)
	// end closes what the client has open.
	end []func() error
}

// usage is the sum over all its processes.
func (p *peer) usage() (sum process.Usage, err error) {
	for _, one := range p.processes {
		u, err := one.Usage()
		if err != nil {
			return sum, err
		}
		sum.CPU += u.CPU
		sum.RSS += u.RSS
		sum.PeakRSS += u.PeakRSS
	}
	return sum, nil
}

func (p *peer) cpu() (time.Duration, error) {
	u, err := p.usage()
	return u.CPU, err
}

func (p *peer) stop() error {
	var errs []error
	for _, end := range p.end {
		errs = append(errs, end())
	}
	for _, one := range p.processes {
		errs = append(errs, one.Stop())
	}
	return errors.Join(errs...)
}

// start starts one more of its processes.
func (p *peer) start(ctx context.Context, cfg process.Config) error {
	one, err := process.Start(ctx, cfg)
	if err == nil {
		p.processes = append(p.processes, one)
	}
	return err
}

// freePorts are ports of loopback that nobody listens to: for servers that cannot
// choose one and tell it.
func freePorts(ctx context.Context, n int) (ports []int, err error) {
	for range n {
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = lis.Close() }() // not before all are chosen
		ports = append(ports, lis.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
