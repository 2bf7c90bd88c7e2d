package schedule

import (
	"cmp"
	"container/heap"
	"container/list"
	"slices"
	"time"
)

// maxDebt bounds how far ahead of the others a caller can be: what it has had
// beyond that is forgiven, so that it never waits for longer than the others need
// to have as much.
const maxDebt = 5 * time.Second

// order is who waits and whose turn is next: start-time fair queueing. Each caller
// has an account of the time that it has had; the next turn goes to the one that
// waits and has had least. It is not safe for concurrent use.
type order struct {
	accounts map[string]*account
	// waiting are the accounts that have waiters, a heap.
	waiting waiting
	waiters int // of all of them
	// virtual is what the caller had had whose turn began last. A caller that comes
	// is taken to have had as much: for the time in which it wanted nothing it gets
	// nothing.
	virtual time.Duration
	last    uint64 // account.last of the turn that began last
	// typical is the estimate for a caller of which nothing is known, and what bounds of
	// the wait are made of. It follows slowly: one run that the machine has held up does
	// not let in more than can be run.
	typical time.Duration
	sweepAt int // accounts at which those are forgotten that say nothing
}

// account is what one caller has had. Without waiters it matters only while it is
// ahead of virtual.
type account struct {
	caller string
	had    time.Duration
	// estimate is how long the caller's turns take; it is charged when a turn begins
	// and set right when it ends. Without it a caller would be given every turn that
	// comes free before the first of them ends.
	estimate time.Duration
	last     uint64     // when it was given a turn: among equals turns go round
	waiters  *list.List // of *waiter, in order of arrival
	index    int        // in order.waiting; -1 without waiters
}

// waiter is one Acquire that waits.
type waiter struct {
	account *account
	place   *list.Element // among the account's waiters; nil once it has left
	done    chan error    // gets its turn (nil), ErrTaken or ErrFull, once
	since   time.Duration // by the queue's clock
	turn    Turn          // before nil is sent
	request Request
}

// minSweep is a number of accounts that it is not worth to sweep.
const minSweep = 64

func newOrder() order {
	return order{accounts: make(map[string]*account), sweepAt: minSweep}
}

// account is the caller's account, new if there is none.
func (o *order) account(caller string) *account {
	if a := o.accounts[caller]; a != nil {
		return a
	}
	if len(o.accounts) >= o.sweepAt {
		for key, a := range o.accounts {
			if a.index < 0 && a.had <= o.virtual {
				delete(o.accounts, key)
			}
		}
		// Twice as many as there are, so that sweeping costs no more than adding.
		o.sweepAt = max(minSweep, 2*len(o.accounts))
	}
	o.last++
	a := &account{caller: caller, had: o.virtual, estimate: o.typical, last: o.last, waiters: list.New(), index: -1}
	o.accounts[caller] = a
	return a
}

// settle keeps what the caller has had within reach of what others have had.
func (o *order) settle(a *account) {
	a.had = min(max(a.had, o.virtual), o.virtual+maxDebt)
}

// push puts w behind the others of its caller.
func (o *order) push(caller string, w *waiter) {
	a := o.account(caller)
	w.account, w.place = a, a.waiters.PushBack(w)
	o.waiters++
	if a.index < 0 {
		o.settle(a)
		heap.Push(&o.waiting, a)
	}
}

// remove takes w out, wherever it waits.
func (o *order) remove(w *waiter) {
	a := w.account
	a.waiters.Remove(w.place)
	w.place = nil
	o.waiters--
	if a.waiters.Len() == 0 {
		heap.Remove(&o.waiting, a.index)
	}
}

// next takes out the waiter whose turn it is and charges its caller for the
// estimate, which it returns; nil if nobody waits.
func (o *order) next() (*waiter, time.Duration) {
	if len(o.waiting) == 0 {
		return nil, 0
	}
	a := o.waiting[0]
	w := a.waiters.Front().Value.(*waiter)
	o.virtual = max(o.virtual, a.had)
	a.had += a.estimate
	o.last++
	a.last = o.last
	heap.Fix(&o.waiting, 0)
	o.remove(w)
	return w, a.estimate
}

// charge settles a turn for which the caller was charged for an estimate.
func (o *order) charge(caller string, took, estimate time.Duration) {
	a := o.account(caller)
	a.had += took - estimate
	a.estimate = (a.estimate + took) / 2
	if o.typical == 0 {
		o.typical = took
	}
	o.typical += (took - o.typical) / 16
	o.settle(a)
	if a.index >= 0 {
		heap.Fix(&o.waiting, a.index)
	}
}

// estimate is how long the next turn of a caller is expected to take.
func (o *order) estimate(caller string) time.Duration {
	if a := o.accounts[caller]; a != nil {
		return a.estimate
	}
	return o.typical
}

// ahead is how long the turns are expected to take, one after the other, that come
// before one more of the caller: of each other those that it is given before it has
// had as much. It looks at every caller that waits.
func (o *order) ahead(caller string) time.Duration {
	begins := o.begins(caller)
	sum := time.Duration(0)
	for _, a := range o.waiting {
		if begins < a.had || a.estimate == 0 {
			continue
		}
		turns := min((begins-a.had)/a.estimate+1, time.Duration(a.waiters.Len()))
		sum += turns * a.estimate
	}
	return sum
}

// begins is what the caller will have had when one more turn of it begins: the turns
// of all begin in this order.
func (o *order) begins(caller string) time.Duration {
	a := o.accounts[caller]
	switch {
	case a == nil:
		return o.virtual
	case a.waiters.Len() == 0:
		return max(o.virtual, a.had)
	}
	return a.had + time.Duration(a.waiters.Len())*a.estimate
}

// backlog is how long all turns that are waited for are expected to take.
func (o *order) backlog() time.Duration {
	sum := time.Duration(0)
	for _, a := range o.waiting {
		sum += time.Duration(a.waiters.Len()) * a.estimate
	}
	return sum
}

// lastToCome is the waiter whose turn comes last, if that is after one more turn of
// the caller; else nil.
func (o *order) lastToCome(caller string) *waiter { return o.lastAfter(o.begins(caller)) }

// hindmost is the waiter whose turn comes last; nil if nobody waits.
func (o *order) hindmost() *waiter { return o.lastAfter(-1) }

// lastAfter is the waiter whose turn comes last, if it begins after its caller has had
// as much; else nil.
func (o *order) lastAfter(latest time.Duration) *waiter {
	var last *account
	for _, a := range o.waiting {
		if begins := a.had + time.Duration(a.waiters.Len()-1)*a.estimate; begins > latest {
			last, latest = a, begins
		}
	}
	if last == nil {
		return nil
	}
	return last.waiters.Back().Value.(*waiter)
}

// gather is who of those that wait has the key, as many as there is room for.
func (o *order) gather(key any, room int64) []*waiter {
	type caller struct {
		*account
		left []*waiter
	}
	var callers []caller
	for _, a := range o.waiting {
		c := caller{account: a}
		for e := a.waiters.Front(); e != nil; e = e.Next() {
			if w := e.Value.(*waiter); w.request.Key == key {
				c.left = append(c.left, w)
			}
		}
		if c.left != nil {
			callers = append(callers, c)
		}
	}
	slices.SortFunc(callers, func(a, b caller) int {
		return cmp.Or(cmp.Compare(a.had, b.had), cmp.Compare(a.last, b.last))
	})
	var taken []*waiter
	for len(callers) > 0 {
		// Whose next one finds no room, or who has no next one, is passed over.
		callers = slices.DeleteFunc(callers, func(c caller) bool { return len(c.left) == 0 || c.left[0].request.Size > room })
		for i := range callers {
			c := &callers[i]
			if w := c.left[0]; w.request.Size <= room {
				room -= w.request.Size
				taken, c.left = append(taken, w), c.left[1:]
			}
		}
	}
	return taken
}

// waitersOf is how many waiters the caller has.
func (o *order) waitersOf(caller string) int {
	if a := o.accounts[caller]; a != nil {
		return a.waiters.Len()
	}
	return 0
}

// newestOfMost is the newest waiter of the caller that has most, if those are more
// than n; else nil. It looks at every caller that waits.
func (o *order) newestOfMost(n int) *waiter {
	var most *account
	for _, a := range o.waiting {
		if a.waiters.Len() > n {
			most, n = a, a.waiters.Len()
		}
	}
	if most == nil {
		return nil
	}
	return most.waiters.Back().Value.(*waiter)
}

// waiting is a heap of accounts, the one whose turn is next first.
type waiting []*account

func (w waiting) Len() int { return len(w) }

func (w waiting) Less(i, j int) bool {
	if w[i].had != w[j].had {
		return w[i].had < w[j].had
	}
	return w[i].last < w[j].last
}

func (w waiting) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}

func (w *waiting) Push(x any) {
	a := x.(*account)
	a.index = len(*w)
	*w = append(*w, a)
}

func (w *waiting) Pop() any {
	last := len(*w) - 1
	a := (*w)[last]
	(*w)[last] = nil
	*w = (*w)[:last]
	a.index = -1
	return a
}
