package schedule

import "time"

// turnsOfDelay is how many turns' time a call may wait as long as the queue comes to
// be empty, for one when it does not.
const turnsOfDelay = 20

// delay decides how long calls may wait: little once the queue has stood for so long
// that it is no burst any more.
type delay struct {
	most time.Duration // Config.MaxDelay
	// waiting runs while calls wait.
	waiting stopwatch
	// began is when this look at the queue began, and had what waiting was then.
	began time.Time
	had   time.Duration
	// standing is what the last look has shown.
	standing bool
}

// longest is how long a call whose turn takes run may wait at the most.
func (d *delay) longest(run time.Duration) time.Duration {
	return max(d.most, turnsOfDelay*run)
}

// patience is how long a call whose turn takes run waits before it is given up. In a
// queue that stands, for twice what it was let in for: then turns take longer than they
// did, and one that comes in its stead is answered sooner.
func (d *delay) patience(run time.Duration) time.Duration {
	if d.standing {
		return 2 * d.longest(run) / turnsOfDelay
	}
	return d.longest(run)
}

// bound is what the wait that a call has before it must be less than; began tells that
// the queue has just been found to stand.
func (d *delay) bound(now time.Time, run time.Duration) (_ time.Duration, began bool) {
	longest := d.longest(run)
	if over := now.Sub(d.began); over >= longest {
		waited := d.waiting.at(now) - d.had
		// A queue that is kept short is empty in between however much comes: it has to
		// be so half of the time before it is taken to do without.
		was := d.standing
		d.standing = waited >= over-over/turnsOfDelay || d.standing && waited >= over/2
		d.began, d.had = now, d.waiting.at(now)
		began = d.standing && !was
	}
	if d.standing {
		// The rest is for what is left of the turns that go on, which is not known.
		return longest / turnsOfDelay * 3 / 4, began
	}
	return longest, began
}

// stopwatch is a clock that runs now and then.
type stopwatch struct {
	total time.Duration // until it last began to run
	since time.Time     // when that was
	runs  bool
}

// at is what it shows at a time, which need not be known unless it runs.
func (s *stopwatch) at(now time.Time) time.Duration {
	if !s.runs {
		return s.total
	}
	return s.total + now.Sub(s.since)
}

// set starts or stops it.
func (s *stopwatch) set(run bool, now time.Time) {
	if run == s.runs {
		return
	}
	s.total = s.at(now)
	s.since, s.runs = now, run
}
