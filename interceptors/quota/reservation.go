package quota

// Reservation is what Reserve took. It is a value; only one copy may be used to
// refund. The zero value holds nothing.
type Reservation struct {
	shard   *shard
	account *account
	rows    int64 // neither spent nor refunded
}

// Refund gives rows back that were reserved and not run, up to those reserved
// and to the burst. The request stays paid for.
func (r *Reservation) Refund(rows int64) {
	rows = min(rows, r.rows)
	if rows <= 0 {
		return
	}
	r.rows -= rows
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	r.account.rows.tokens += float64(rows)
	r.shard.moved(r.account)
}

// Rows are the rows that are neither spent nor refunded.
func (r *Reservation) Rows() int64 { return r.rows }

// Join adds what other holds to r, and empties other. If the two are of
// different accounts, what r held is spent: the caller's roles changed in the
// middle of a stream.
func (r *Reservation) Join(other *Reservation) {
	if r.account != other.account {
		*r = Reservation{shard: other.shard, account: other.account}
	}
	r.rows += other.rows
	*other = Reservation{}
}

// Spend takes note that rows have run and cannot be refunded.
func (r *Reservation) Spend(rows int64) { r.rows -= max(min(rows, r.rows), 0) }
