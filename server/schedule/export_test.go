package schedule

// Running is how many turns are taken, Waiting how many wait for one, Accounts how
// many callers are remembered.
func (q *Queue) Running() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running
}

func (q *Queue) Accounts() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.order.accounts)
}
