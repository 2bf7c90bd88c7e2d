package devauthority

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// registry is what the authority knows at one moment. It is immutable once it is
// the current one: a change makes the next.
type registry struct {
	workloads map[string]Workload
	domains   map[spiffeid.TrustDomain]domain
	replaced  chan struct{} // closed when there is a newer registry
}

// domain is what signs for one trust domain.
type domain struct {
	ca  *ca
	jwt *jwtKeys
}

func newRegistry() *registry {
	return &registry{
		workloads: make(map[string]Workload),
		domains:   make(map[spiffeid.TrustDomain]domain),
		replaced:  make(chan struct{}),
	}
}

var errClosed = errors.New("development authority: closed")

// change puts a changed copy of the registry in the place of the current one,
// unless f has an error, and tells all open streams.
func (a *Authority) change(f func(next *registry) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errClosed
	}
	old := a.current.Load()
	next := &registry{workloads: maps.Clone(old.workloads), domains: maps.Clone(old.domains), replaced: make(chan struct{})}
	if err := f(next); err != nil {
		return err
	}
	a.current.Store(next)
	close(old.replaced)
	return nil
}

// register enters a workload, and the trust domains that it needs and that are
// not there yet.
func (a *Authority) register(next *registry, w Workload) error {
	for _, td := range w.trustDomains() {
		if _, there := next.domains[td]; there {
			continue
		}
		ca, err := openCA(a.stateDir(), td, a.cfg.Now())
		if err != nil {
			return err
		}
		keys, err := openJWTKeys(a.stateDir(), td, a.cfg.Now())
		if err != nil {
			return err
		}
		next.domains[td] = domain{ca, keys}
	}
	next.workloads[w.Name] = w.clone()
	return nil
}

// Update changes the entry of a workload while the authority runs: its ID (none:
// the entry is gone, calls and open streams end with "no identity issued"), its
// DNS names, what it federates with. When it returns, what follows from the
// change is on its way to all open streams. The change holds until the authority
// is closed: it is not stored. An error leaves everything as it was.
func (a *Authority) Update(name string, change func(*Workload)) error {
	return a.change(func(next *registry) error {
		w, there := next.workloads[name]
		if !there {
			return fmt.Errorf("development authority: no workload %q", name)
		}
		w = w.clone()
		change(&w)
		w.Name = name
		if err := w.validate(); err != nil {
			return fmt.Errorf("development authority: %w", err)
		}
		return a.register(next, w)
	})
}

// RotateCA makes a new CA for a trust domain, which signs from now on: every
// open stream of its workloads gets an SVID of the new one. The certificate of
// the old one stays in the bundle for keep, also over a restart, and at the
// longest until it expires.
func (a *Authority) RotateCA(td spiffeid.TrustDomain, keep time.Duration) error {
	return a.rotate(td, func(d *domain) (err error) {
		d.ca, err = d.ca.rotated(a.cfg.Now(), keep)
		if err != nil {
			return err
		}
		return storeCA(statePath(a.stateDir(), td), d.ca)
	})
}

// RotateJWTKey makes a new key for the JWT-SVIDs of a trust domain. The old one
// stays in the bundle for keep, also over a restart.
func (a *Authority) RotateJWTKey(td spiffeid.TrustDomain, keep time.Duration) error {
	return a.rotate(td, func(d *domain) (err error) {
		d.jwt, err = d.jwt.rotated(a.cfg.Now(), keep)
		if err != nil {
			return err
		}
		return storeJWTKeys(jwtStatePath(a.stateDir(), td), d.jwt)
	})
}

func (a *Authority) rotate(td spiffeid.TrustDomain, f func(*domain) error) error {
	return a.change(func(next *registry) error {
		d, there := next.domains[td]
		if !there {
			return fmt.Errorf("development authority: no workload needs trust domain %q", td)
		}
		if err := f(&d); err != nil {
			return fmt.Errorf("development authority: rotate %s: %w", td, err)
		}
		next.domains[td] = d
		return nil
	})
}

// retire takes old CAs and keys out of the bundles when their time has come. The
// files keep them until the next change: a start leaves them out.
func (a *Authority) retire(ctx context.Context) {
	for {
		now := a.current.Load()
		var due <-chan time.Time
		if leaves := now.nextLeave(); !leaves.IsZero() {
			due = time.After(max(leaves.Sub(a.cfg.Now()), time.Millisecond))
		}
		select {
		case <-due:
		case <-now.replaced:
			continue
		case <-ctx.Done():
			return
		}
		_ = a.change(func(next *registry) error { // closed, if anything
			for td, d := range next.domains {
				next.domains[td] = domain{d.ca.without(a.cfg.Now()), d.jwt.without(a.cfg.Now())}
			}
			return nil
		})
	}
}

// nextLeave is when the next old CA or key leaves a bundle; zero if none does.
func (r *registry) nextLeave() time.Time {
	var all []time.Time
	for _, d := range r.domains {
		for _, f := range d.ca.older {
			all = append(all, f.leaves)
		}
		for _, f := range d.jwt.older {
			all = append(all, f.leaves)
		}
	}
	if len(all) == 0 {
		return time.Time{}
	}
	return slices.MinFunc(all, time.Time.Compare)
}

// view is what one workload may know at one moment.
type view struct {
	workload Workload
	own      domain
	domains  map[spiffeid.TrustDomain]domain // own included
}

// view returns false if the workload has no identity.
func (r *registry) view(name string) (view, bool) {
	w := r.workloads[name]
	if w.ID.IsZero() {
		return view{}, false
	}
	v := view{workload: w, own: r.domains[w.ID.TrustDomain()], domains: make(map[spiffeid.TrustDomain]domain)}
	for _, td := range w.trustDomains() {
		v.domains[td] = r.domains[td]
	}
	return v, true
}
