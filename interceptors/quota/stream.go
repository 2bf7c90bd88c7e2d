package quota

// Stream is an open stream that counts against its caller's limit.
type Stream struct {
	shard   *shard
	account *account // nil once closed; shard.mu guards it
}

// OpenStream counts a stream of caller and key, until its Close; the error is
// an *Exceeded. It takes neither a request nor rows: each message of the stream
// is to be reserved by itself.
func (l *Limiter) OpenStream(caller, key string, limits Limits) (*Stream, error) {
	if limits.MaxStreams < 1 {
		return nil, &Exceeded{Limit: Streams, Max: limits.MaxStreams}
	}
	s := l.shard(caller)
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := s.open(name{caller, key}, limits, s.now())
	if err != nil {
		return nil, err
	}
	if a.streams >= limits.MaxStreams {
		return nil, &Exceeded{Limit: Streams, Max: limits.MaxStreams}
	}
	a.streams++
	s.streams++
	return &Stream{shard: s, account: a}, nil
}

// Close gives the stream back. Only the first call does anything.
func (st *Stream) Close() {
	st.shard.mu.Lock()
	defer st.shard.mu.Unlock()
	a := st.account
	if a == nil {
		return
	}
	st.account = nil
	st.shard.streams--
	a.streams--
	st.shard.moved(a)
	if a.shared != nil && !a.shared.queued {
		st.shard.limiter.keeper.queue(a)
	}
}
