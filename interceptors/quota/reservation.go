package quota

import "time"

// Reservation is what Reserve or Acquire took. It is a value; only one copy may be
// used to settle it. The zero value holds nothing.
type Reservation struct {
	shard   *shard
	account *account
	rows    int64 // neither spent nor refunded
	// alone: taken of what this replica counts by itself, not from the store.
	alone bool
	// Of budgets: the rows that can still be refunded to them, and the model time
	// that is reserved for rows, in microseconds, both of these periods.
	budgeted, micros int64
	day, month       int64
}

// Refund gives rows back that were reserved and not run, up to those reserved
// and to the burst. The request stays paid for. A budget of a period that has
// ended gets nothing back.
func (r *Reservation) Refund(rows int64) {
	rows = min(rows, r.rows)
	if rows <= 0 {
		return
	}
	part := r.part(rows)
	r.rows -= rows
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	a := r.account
	a.rows.tokens += float64(rows)
	if a.shared != nil {
		now := r.shard.now()
		if !r.alone {
			a.give(KindRows, rows, now)
		}
		r.giveRows(min(rows, r.budgeted), now)
		r.giveTime(part, now)
	}
	r.shard.moved(a)
}

// part is the model time reserved for some of the rows; it is taken out of r.
func (r *Reservation) part(rows int64) int64 {
	if r.micros == 0 {
		return 0
	}
	part := r.micros
	if rows < r.rows {
		part = int64(float64(part) * float64(rows) / float64(r.rows))
	}
	r.micros -= part
	return part
}

// giveRows gives rows back to the budgets they were taken from.
func (r *Reservation) giveRows(rows int64, now time.Duration) {
	if rows <= 0 {
		return
	}
	r.budgeted -= rows
	l := &r.account.limits
	r.move(KindDayRows, l.Day.Rows > 0, -rows, now)
	r.move(KindMonthRows, l.Month.Rows > 0, -rows, now)
}

// giveTime gives model time back that was not needed, or takes what was needed
// more if it is negative.
func (r *Reservation) giveTime(micros int64, now time.Duration) {
	l := &r.account.limits
	r.move(KindDayTime, l.Day.ModelTime > 0, -micros, now)
	r.move(KindMonthTime, l.Month.ModelTime > 0, -micros, now)
}

// move settles with one budget: used more than was taken, or less if negative.
func (r *Reservation) move(k Kind, limited bool, used int64, now time.Duration) {
	s := r.account.shared
	switch {
	case !limited || used == 0:
	case used > 0:
		r.account.charge(k, used, now)
	case k.day() && r.day == s.day || k.month() && r.month == s.month:
		r.account.give(k, -used, now)
	}
}

// Rows are the rows that are neither spent nor refunded.
func (r *Reservation) Rows() int64 { return r.rows }

// Join adds what other holds to r, and empties other. If the two are of
// different accounts, what r held is spent: the caller's roles changed in the
// middle of a stream. The same holds for a budget between whose periods they are.
func (r *Reservation) Join(other *Reservation) {
	switch {
	case r.account != other.account || r.alone != other.alone:
		*r = Reservation{shard: other.shard, account: other.account, alone: other.alone}
	case r.day != other.day || r.month != other.month:
		r.budgeted, r.micros = 0, 0
	}
	r.rows += other.rows
	r.budgeted += other.budgeted
	r.micros += other.micros
	r.day, r.month = other.day, other.month
	*other = Reservation{}
}

// Spend takes note that rows have run, in the time d, and cannot be refunded. The
// time that was reserved for them is settled with what it was.
func (r *Reservation) Spend(rows int64, d time.Duration) {
	ran := max(min(rows, r.rows), 0)
	part := r.part(ran)
	r.rows -= ran
	r.budgeted = min(r.budgeted, r.rows)
	if r.account == nil || r.account.shared == nil {
		return
	}
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	if !r.account.limits.Budgeted() {
		return
	}
	micros := max(d.Microseconds(), 1)
	r.giveTime(part-micros, r.shard.now())
	if rows > 0 {
		const weight = 0.2 // of the newest
		s := r.account.shared
		s.perRow += weight * (float64(micros)/float64(rows) - s.perRow)
	}
}

// Sent takes note that bytes were sent, which nothing was reserved for.
func (r *Reservation) Sent(bytes int64) {
	if bytes <= 0 || r.account == nil || r.account.shared == nil {
		return
	}
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	now, l := r.shard.now(), &r.account.limits
	r.move(KindDayBytes, l.Day.Bytes > 0, bytes, now)
	r.move(KindMonthBytes, l.Month.Bytes > 0, bytes, now)
}

// Close gives back what is neither spent nor refunded.
func (r *Reservation) Close() {
	r.Refund(r.rows)
	if r.micros == 0 {
		return
	}
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	r.giveTime(r.micros, r.shard.now())
	r.micros = 0
}
