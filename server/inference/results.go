package inference

import (
	"context"
	"sync"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// results are the results of one stream on their way out. There is no goroutine
// that waits for them: who brings one sends it, with all that others bring
// meanwhile. So of those that a slow reader holds up only one waits.
type results struct {
	stream predictStream
	cancel context.CancelCauseFunc

	mu     sync.Mutex    // guards what follows; not held while something is sent
	places int           // of the window that are free
	free   chan struct{} // tells reserve, which waits for it, that a place is
	waits  bool          // whether reserve does
	// early are the results of an ordered stream that came before their turn, by
	// place modulo the window; nil if it is not ordered. next is whose turn it is.
	early []*inferencev1.PredictStreamResponse
	next  uint64
	// ready are what can be sent, in order.
	ready   []*inferencev1.PredictStreamResponse
	sending bool // whether somebody does
	failure error
}

func newResults(stream predictStream, window int, ordered bool, cancel context.CancelCauseFunc) *results {
	r := &results{stream: stream, cancel: cancel, places: window, free: make(chan struct{}, 1)}
	if ordered {
		r.early = make([]*inferencev1.PredictStreamResponse, window)
	}
	return r
}

// reserve waits for a place in the window, or for the end of ctx. One goroutine
// calls it.
func (r *results) reserve(ctx context.Context) error {
	r.mu.Lock()
	for r.places == 0 {
		r.waits = true
		r.mu.Unlock()
		select {
		case <-r.free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		r.mu.Lock()
	}
	r.places--
	r.mu.Unlock()
	return nil
}

// deliver brings the result of the batch that was received as the place-th. It
// may block for as long as the caller does not read.
func (r *results) deliver(place uint64, result *inferencev1.PredictStreamResponse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.early == nil {
		r.ready = append(r.ready, result)
	} else {
		window := uint64(len(r.early))
		r.early[place%window] = result
		for ; r.early[r.next%window] != nil; r.next++ {
			r.ready = append(r.ready, r.early[r.next%window])
			r.early[r.next%window] = nil
		}
	}
	r.send()
}

// announce sends what is no batch's.
func (r *results) announce(m *inferencev1.PredictStreamResponse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = append(r.ready, m)
	r.send()
}

// send sends what is ready, unless somebody does. r.mu is held, but not meanwhile.
func (r *results) send() {
	if r.sending {
		return
	}
	r.sending = true
	for len(r.ready) > 0 && r.failure == nil {
		m := r.ready[0]
		r.ready[0] = nil
		if r.ready = r.ready[1:]; len(r.ready) == 0 {
			r.ready = nil
		}
		r.mu.Unlock()
		err := r.stream.Send(m)
		r.mu.Lock()
		if err != nil {
			r.failure = err
			r.cancel(err) // what still runs has nobody to go to
			break
		}
		if m.GetDraining() != nil {
			continue
		}
		r.places++
		if r.waits {
			r.waits = false
			r.free <- struct{}{}
		}
	}
	r.sending = false
}

// err is why results could not be sent.
func (r *results) err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure
}

// outputsOf is the result of a batch that ran; in one piece of memory.
func outputsOf(sequence uint64, outputs map[string]*inferencev1.Tensor) *inferencev1.PredictStreamResponse {
	m := &struct {
		response inferencev1.PredictStreamResponse
		message  inferencev1.PredictStreamResponse_Result
		result   inferencev1.StreamResult
		kind     inferencev1.StreamResult_Outputs
		outputs  inferencev1.StreamOutputs
	}{}
	m.outputs.Outputs = outputs
	m.kind.Outputs = &m.outputs
	m.result.Sequence, m.result.Result = sequence, &m.kind
	m.message.Result = &m.result
	m.response.Message = &m.message
	return &m.response
}

// statusOf is the result of a batch that has no outputs.
func statusOf(sequence uint64, status *spb.Status) *inferencev1.PredictStreamResponse {
	return &inferencev1.PredictStreamResponse{Message: &inferencev1.PredictStreamResponse_Result{Result: &inferencev1.StreamResult{
		Sequence: sequence,
		Result:   &inferencev1.StreamResult_Status{Status: status},
	}}}
}
