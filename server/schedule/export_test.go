package schedule

// Accounts is how many callers are remembered.
func (q *Queue) Accounts() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.calls.accounts)
}
