package quota

import (
	"context"
	"time"
)

// Store keeps what Limiters of several replicas share: for each account the
// tokens of its buckets and what of its budgets is used, by one clock. It is safe
// for concurrent use.
//
// A call that returns an error may have been done or not. It must not be done
// twice: whoever implements a Store does not repeat what may have been done.
type Store interface {
	// Exchange moves amounts between the store and this replica, in one step. It
	// blocks until ctx ends at the longest.
	Exchange(ctx context.Context, x *Exchange) (Answer, error)
	// Places says how many streams this replica has open, or wants to have. If
	// they are more than it said before, they are taken only if those of all
	// replicas are at most the account's MaxStreams. What a replica says is
	// forgotten after PlacesTTL.
	Places(ctx context.Context, account Account, places, most int64) (taken bool, err error)
	// Probe does nothing, in the way that Exchange does something.
	Probe(ctx context.Context) error
}

// PlacesTTL is how long a store believes what a replica said of its streams. A
// replica says it again three times in that time, so that the streams of one that
// died stop to count after it.
const PlacesTTL = 10 * time.Second

// Account names whom an account belongs to.
type Account struct {
	// Caller is the SPIFFE ID.
	Caller string
	// Key names the set of roles.
	Key string
}

// Exchange is what is asked of a Store, in this order: what is returned is added,
// what is needed is taken or nothing of it, and of the rest what is wanted is
// taken as far as it goes.
type Exchange struct {
	// Account and its Limits, those of now.
	Account Account
	Limits  Limits
	// Return is what comes back; what is negative was used without being taken.
	// Never more is had than a bucket's burst, or a budget.
	Return Amounts
	// Day and Month are the periods that Return is of. What comes back to another
	// period is dropped; 0 stands for any.
	Day, Month int64
	// Need is taken as a whole or not at all.
	Need Amounts
	// Want is taken as far as it is there; of a budget no more than Share of what
	// is left.
	Want  Amounts
	Share float64
	// Keep is how long this replica may keep what it takes.
	Keep time.Duration
}

// Answer is what a Store says to an Exchange.
type Answer struct {
	// Passed is whether there was enough of what was needed. If not, nothing was
	// taken.
	Passed bool
	// Taken is what was taken of what was wanted.
	Taken Amounts
	// Left is what is left now, of what is limited. It is below 0 where more was
	// used than was taken.
	Left [Kinds]float64
	// Day and Month name the periods of now, never 0.
	Day, Month int64
	// DayEnds and MonthEnds are how long they still take.
	DayEnds, MonthEnds time.Duration
}

// Lease bounds what a replica holds of shared limits without having used it.
type Lease struct {
	// Share is the part of a bucket's burst, and of what is left of a budget, that
	// one replica holds at most; 0.05 if 0. Below 0 there are no leases: each
	// message is a round trip.
	Share float64
	// Duration is how long it holds it, before it gives it back; a second if 0.
	Duration time.Duration
}

func (l Lease) withDefaults() Lease {
	if l.Share == 0 {
		l.Share = 0.05
	}
	if l.Duration <= 0 {
		l.Duration = time.Second
	}
	l.Share = min(max(l.Share, 0), 1)
	return l
}

// most is the most of each kind that one replica holds under the limits.
func (l Lease) most(limits *Limits) Amounts {
	most := limits.Most()
	for k := range most {
		most[k] = int64(l.Share * float64(most[k]))
	}
	return most
}
