package quota

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
