package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/sallyport/sallyport/server"
)

// run serves until ctx ends and then stops in the order that loses nothing.
func (p *process) run(ctx context.Context, heard *serverSignals) error {
	p.announce()
	var background sync.WaitGroup
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	serving, cut := context.WithCancelCause(ctx)
	background.Go(func() { p.policy.Run(working) })
	background.Go(func() { p.models.Run(working) })
	background.Go(func() { p.followIdentity(working) })
	if p.users != nil {
		background.Go(func() { p.followUsers(working) })
	}
	if p.shadow != nil {
		background.Go(func() { p.shadow.Run(working) })
	}
	background.Go(func() {
		err := server.ServeAdmin(working, p.admin, append(p.checks, p.server.Draining()), p.metrics.Gatherer(),
			server.Page{Path: "/quota", Serve: p.serveQuota})
		if err != nil {
			cut(fmt.Errorf("admin: %w", err))
		}
	})
	background.Go(func() {
		for {
			select {
			case <-heard.hangups:
				p.reload(working)
			case <-working.Done():
				return
			}
		}
	})

	background.Go(func() { p.cutOnSignal(working, heard) })

	err := p.server.Serve(serving, p.listener)
	if cause := context.Cause(serving); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	cut(nil)
	stop()
	background.Wait()
	p.event("server stopped")
	err = errors.Join(err, p.close(ctx))
	p.log.Info("stopped")
	return err
}

// cutOnSignal ends the drain at the second signal to stop. A further one ends
// the process.
func (p *process) cutOnSignal(working context.Context, heard *serverSignals) {
	for range 2 {
		select {
		case <-heard.stops:
		case <-working.Done():
			return
		}
	}
	heard.releaseStops()
	p.server.Cut()
}

// closeTimeout bounds the end of all parts but the audit log, whose own timeout
// holds.
const closeTimeout = 10 * time.Second

// close ends what assemble opened, the audit log last: all before it may still
// have something to record. That ctx has ended does not matter. The error says
// also whether records were lost.
func (p *process) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	var errs []error
	end := func(part string, err error) {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close %s: %w", part, err))
		}
	}
	if p.listener != nil {
		end("listener", p.listener.Close())
	}
	if p.admin != nil {
		end("admin", p.admin.Close())
	}
	if p.chain != nil {
		end("chain", p.chain.Close(ctx))
	}
	if p.limiter != nil {
		end("quotas", p.limiter.Close(ctx))
	}
	if p.quotaStore != nil {
		end("store of quotas", p.quotaStore.Close())
	}
	if p.models != nil {
		end("models", p.models.Close(ctx))
	}
	if p.runtime != nil {
		end("runtime", p.runtime.Close())
	}
	if p.users != nil {
		end("users", p.users.Close())
	}
	if p.source != nil {
		end("identity", p.source.Close())
	}
	if p.audit != nil {
		end("audit log", p.audit.Close())
	}
	if p.witness != nil {
		end("audit witness", p.witness.Close()) // the log's last checkpoint included
	}
	return errors.Join(errs...)
}
