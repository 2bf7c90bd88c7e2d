package inference

import (
	"sync"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// streams are the open streams of a service, so that a drain reaches those that
// wait for their callers.
type streams struct {
	mu       sync.Mutex // guards what follows
	open     map[*batches]struct{}
	draining bool
}

// add adds a stream, which has to be removed before its handler returns. One that
// is opened while the server drains is told at once.
func (s *streams) add(b *batches) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[*batches]struct{})
	}
	s.open[b] = struct{}{}
	if s.draining {
		b.announceDrain()
	}
}

// remove removes a stream. Nothing is announced on it any more but what is on its
// way, which is among what b.running waits for.
func (s *streams) remove(b *batches) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, b)
}

func (s *streams) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for b := range s.open {
		b.announceDrain()
	}
}

func (s *streams) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// announceDrain tells the caller, on a goroutine of its own: it may not be reading.
func (b *batches) announceDrain() {
	b.running.Go(func() {
		b.results.announce(&inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Draining{Draining: &inferencev1.StreamDraining{}}})
	})
}
