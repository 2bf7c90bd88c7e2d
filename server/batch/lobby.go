package batch

import (
	"slices"
	"sync"
	"time"
)

// lobby is where requests wait for others, before they wait for their turn, if the
// model's owner gives them time for it.
type lobby struct {
	mu   sync.Mutex     // guards jobs
	jobs map[key][]*job // in order of arrival
}

// wait waits until it is time for the job to ask for a turn, as its time is up, there
// are rows enough with it or its call is gone, and returns true; or until a run has
// taken it.
func (l *lobby) wait(j *job) bool {
	b := j.Version.Batching
	l.mu.Lock()
	rows := j.Rows
	for _, other := range l.jobs[j.key] {
		rows += other.Rows
	}
	if rows >= b.MaxRows {
		l.mu.Unlock()
		return true
	}
	l.jobs[j.key] = append(l.jobs[j.key], j)
	l.mu.Unlock()

	timer := time.NewTimer(b.MaxDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-j.ctx.Done():
	case <-j.done:
	}
	return l.remove(j)
}

// remove takes a job out. It is false if it is not there any more.
func (l *lobby) remove(j *job) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	jobs := l.jobs[j.key]
	at := slices.Index(jobs, j)
	if at < 0 {
		return false
	}
	l.keep(j.key, slices.Delete(jobs, at, at+1))
	return true
}

// take takes the jobs with the key for which there is room.
func (l *lobby) take(k key, room int64) (taken []*job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rest []*job
	for _, j := range l.jobs[k] {
		if j.Rows > room {
			rest = append(rest, j)
			continue
		}
		room -= j.Rows
		taken = append(taken, j)
	}
	l.keep(k, rest)
	return taken
}

func (l *lobby) keep(k key, jobs []*job) {
	if len(jobs) == 0 {
		delete(l.jobs, k)
		return
	}
	l.jobs[k] = jobs
}
