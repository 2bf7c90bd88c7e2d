package process

import (
	"context"
	"fmt"
	"regexp"
	"sync"
)

// keep is how much of what a process wrote is kept: a server that logs each call
// must not fill the memory of who measures it.
const keep = 1 << 20

// transcript is what a process wrote.
type transcript struct {
	mu    sync.Mutex // guards what follows
	text  []byte
	grown chan struct{} // closed when there is more
}

func newTranscript() *transcript { return &transcript{grown: make(chan struct{})} }

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.grown)
	t.grown = make(chan struct{})
	t.text = append(t.text, p...)
	if len(t.text) > 2*keep {
		t.text = append([]byte(nil), t.text[len(t.text)-keep:]...)
	}
	return len(p), nil
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// await waits for a match, but no longer than for the process.
func (t *transcript) await(ctx context.Context, want *regexp.Regexp, ended <-chan struct{}) ([]string, error) {
	for {
		t.mu.Lock()
		match, grown := want.FindSubmatch(t.text), t.grown
		t.mu.Unlock()
		if match != nil {
			texts := make([]string, len(match))
			for i, m := range match {
				texts[i] = string(m)
			}
			return texts, nil
		}
		select {
		case <-grown:
		case <-ended:
			return nil, ErrEnded
		case <-ctx.Done():
			return nil, fmt.Errorf("no %q: %w", want, ctx.Err())
		}
	}
}
