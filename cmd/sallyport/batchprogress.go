package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/batch"
)

// progress shows on a terminal how far a batch is: rows, rate and time left. It
// shows nothing elsewhere.
type progress struct {
	bar   *progressbar.ProgressBar // nil if nothing is shown
	start time.Time
	first float64 // the share that was done at start
}

// parts is what the whole of a bar is, of which a share is counted.
const parts = 10000

func newProgress(w io.Writer) *progress {
	p := &progress{start: time.Now(), first: -1}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions(parts, progressbar.OptionSetWriter(w), progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	return p
}

// show is batch.Config.Progress.
func (p *progress) show(now batch.Progress) {
	if p.bar == nil {
		return
	}
	p.bar.Describe(p.line(now, time.Now()))
	if now.Done >= 0 {
		_ = p.bar.Set(min(int(now.Done*parts), parts-1)) // a bar that is full would vanish
	}
}

// line is what stands before the bar.
func (p *progress) line(now batch.Progress, at time.Time) string {
	if p.first < 0 && now.Done >= 0 {
		p.first, p.start = now.Done, at
	}
	took := at.Sub(p.start).Seconds()
	line := fmt.Sprintf("%d rows", now.Answered+now.Refused)
	if took > 0 {
		line += fmt.Sprintf(", %.0f/s", float64(now.Answered+now.Refused-now.Before)/took)
	}
	if gained := now.Done - p.first; p.first >= 0 && gained > 0 && took > 0 {
		left := time.Duration((1 - now.Done) / gained * took * float64(time.Second))
		line += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	if now.Refused > 0 {
		line += fmt.Sprintf(", %d refused", now.Refused)
	}
	if now.Slowed != "" {
		line += ", slowed by " + now.Slowed
	}
	return line
}

// clear takes the bar away.
func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear() // nothing depends on it
	}
}
