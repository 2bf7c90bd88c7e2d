package report

import (
	"slices"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// together is how near in time two calls are for "at once".
const together = 10 * time.Minute

// shortCall bounds the calls that are looked at: a longer one may have begun with
// what has since been replaced.
const shortCall = time.Minute

const (
	maxSerials = 16
	maxHosts   = 8
)

// atOnce watches the SVIDs of a caller: one that comes from several hosts, and an
// older one that comes back although a newer is in use. Both happen where a key
// was copied, and also where a workload has replicas or several ways to us: so
// they count against the caller's own past.
type atOnce struct {
	past, now overlap
	serials   []serialUse
}

// overlap is how much was at once.
type overlap struct {
	// hosts is the most hosts that one SVID came from within the time.
	hosts       int
	serial      string   // of that SVID
	hostNames   []string // those hosts
	first, last int64    // of that SVID, when the most was reached
	// returns counts calls with an SVID after another had come in between that
	// first came later.
	returns                   uint64
	firstReturn, lastReturn   int64
	olderReturned, newerThere string // the serials of the last return
}

type serialUse struct {
	serial      string
	first, last int64
	hosts       []hostUse
}

type hostUse struct {
	host string
	last int64
}

func (a *atOnce) add(r *auditv1.Record, at int64, o *overlap) {
	serial := r.GetCaller().GetSvidSerial()
	if serial == "" || r.GetDuration().AsDuration() > shortCall {
		return
	}
	var own *serialUse
	for i := range a.serials {
		if a.serials[i].serial == serial {
			own = &a.serials[i]
		}
	}
	if own == nil {
		a.serials = slices.DeleteFunc(a.serials, func(s serialUse) bool { return at-s.last > int64(together) })
		if len(a.serials) == maxSerials {
			a.serials = slices.Delete(a.serials, 0, 1)
		}
		a.serials = append(a.serials, serialUse{serial: serial, first: at, last: at})
		own = &a.serials[len(a.serials)-1]
	}
	if own.last-at > int64(together) {
		return // recorded long after it began: what came with it is not known any more
	}
	for i := range a.serials {
		other := &a.serials[i]
		if other.first > own.first && other.last > own.last && other.last <= at && at-other.last <= int64(together) {
			if o.returns == 0 {
				o.firstReturn = own.last
			}
			o.returns++
			o.lastReturn, o.olderReturned, o.newerThere = at, serial, other.serial
			break
		}
	}
	own.last = max(own.last, at)
	a.host(own, hostOf(r.GetPeerAddress()), at, o)
}

// host counts the hosts that the SVID came from a moment ago.
func (a *atOnce) host(own *serialUse, host string, at int64, o *overlap) {
	if len(own.hosts) == 1 && own.hosts[0].host == host { // as nearly always
		own.hosts[0].last = max(own.hosts[0].last, at)
		o.hosts = max(o.hosts, 1)
		return
	}
	own.hosts = slices.DeleteFunc(own.hosts, func(h hostUse) bool { return at-h.last > int64(together) })
	i := slices.IndexFunc(own.hosts, func(h hostUse) bool { return h.host == host })
	switch {
	case i >= 0:
		own.hosts[i].last = max(own.hosts[i].last, at)
	case len(own.hosts) < maxHosts:
		own.hosts = append(own.hosts, hostUse{host, at})
	}
	if len(own.hosts) <= o.hosts {
		return
	}
	o.hosts, o.serial = len(own.hosts), own.serial
	o.first, o.last = at, at
	o.hostNames = o.hostNames[:0]
	for _, h := range own.hosts {
		o.first, o.last = min(o.first, h.last), max(o.last, h.last)
		o.hostNames = append(o.hostNames, h.host)
	}
}

func contains(days []int64, day int64) bool { return slices.Contains(days, day) }
