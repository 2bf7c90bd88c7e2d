package interceptors

import (
	"context"
	"encoding/binary"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// frames is the part of grpc-go's server stream that reads messages as they
// came. grpc.ServerStream.RecvMsg would do, but it answers a message that is
// too large or malformed by itself, without a reason and before the call is
// recorded. grpc-go does not promise these methods; newGatedStream checks for
// them on each stream, and the chain's tests fail where they are gone.
type frames interface {
	// ReadMessageHeader fills header or returns io.EOF at the end.
	ReadMessageHeader(header []byte) error
	// Read returns the next n bytes; the caller frees them.
	Read(n int) (mem.BufferSlice, error)
}

// headerLen is the length of a gRPC message's prefix: a flag for compression
// and the length.
const headerLen = 5

// gatedStream is the stream that a handler sees: every message it receives has
// passed the gates.
type gatedStream struct {
	grpc.ServerStream
	chain        *Chain
	call         *Call
	frames       frames
	clientStream bool
	header       [headerLen]byte
}

func newGatedStream(c *Chain, call *Call, ss grpc.ServerStream, info *grpc.StreamServerInfo) (*gatedStream, error) {
	call.ctx = ss.Context()
	f, ok := grpc.ServerTransportStreamFromContext(call.ctx).(frames)
	if !ok {
		return nil, Refuse(Internal, "grpc-go's server stream does not read frames")
	}
	call.gated = gatedStream{ServerStream: ss, chain: c, call: call, frames: f, clientStream: info.IsClientStream}
	return &call.gated, nil
}

// Context is the call's context, by which CallFromContext finds the call.
func (s *gatedStream) Context() context.Context { return s.call.ctx }

// SendMsg sends a message and counts it. To who may no longer be here it sends
// none.
func (s *gatedStream) SendMsg(m any) error {
	if refusal := s.call.forced(); refusal != nil {
		return refusal
	}
	// A handler that answers before it has received anything has asked no quota.
	if err := s.call.header(s.ServerStream, nil); err != nil {
		return err
	}
	if err := s.ServerStream.SendMsg(m); err != nil {
		return err
	}
	s.call.sentMessage(m)
	return nil
}

// sentMessage counts a message that was encoded just before: its size is known.
func (c *Call) sentMessage(m any) {
	c.sent.Add(1)
	if m, ok := m.(proto.Message); ok {
		c.bytesSent.Add(uint64(proto.MarshalOptions{UseCachedSize: true}.Size(m))) //nolint:gosec // a size
	}
}

// RecvMsg receives the next message into m and takes it through the gates. If
// a gate refuses it, m is filled all the same and the error is a *Refusal: the
// handler of a stream may answer it by itself and go on. After Malformed and
// MessageTooLarge nothing more can be received.
func (s *gatedStream) RecvMsg(m any) error {
	msg := &s.call.message
	*msg = Message{}
	if err := s.decode(m, msg); err != nil {
		return err
	}
	s.call.received++
	if msg.Proto != nil && s.call.method.Describe != nil {
		msg.Subject = s.call.method.Describe(msg.Proto)
	}
	if msg.Subject.Model == "" {
		msg.Subject.Model = s.call.model
	}
	msg.Subject.Model = clip(msg.Subject.Model, maxModelBytes)
	for _, gate := range s.chain.messages {
		if err := gate(s.call, msg); err != nil {
			s.chain.throttleMessage(s.call, err)
			return err
		}
	}
	return nil
}

// decode reads one message into m. A message that is too large or cannot be
// decoded is a message all the same, which the gates see and refuse: it is
// paid for and recorded. Any other error is of the transport.
func (s *gatedStream) decode(m any, msg *Message) error {
	if err := s.frames.ReadMessageHeader(s.header[:]); err != nil {
		if errors.Is(err, io.EOF) && !s.clientStream {
			msg.Err = Refuse(Malformed, "no message")
			return nil
		}
		return s.transport(err, msg)
	}
	length := int64(binary.BigEndian.Uint32(s.header[1:]))
	if limit := int64(s.chain.cfg.MaxMessageBytes); length > limit {
		msg.Err = Refuse(MessageTooLarge, "%d bytes, the limit is %d", length, limit)
		return nil
	}
	data, err := s.frames.Read(int(length))
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return s.transport(err, msg)
	}
	defer data.Free()
	msg.bytes = int64(length)
	s.call.bytesReceived += uint64(length) //nolint:gosec // a length
	if s.header[0] != 0 {
		msg.Err = Refuse(Malformed, "flag byte %#x: compressed messages are not served", s.header[0])
		return nil
	}
	if !s.clientStream {
		if err := s.frames.ReadMessageHeader(s.header[:]); err == nil {
			msg.Err = Refuse(Malformed, "more than one message")
			return nil
		} else if !errors.Is(err, io.EOF) {
			return s.transport(err, msg)
		}
	}
	p, ok := m.(proto.Message)
	if !ok {
		return Refuse(Internal, "%T is not a protobuf message", m)
	}
	msg.Proto, msg.valid, msg.Err = s.call.method.decode(data, p)
	return nil
}

// decode decodes a message into p. Valid is that it is known to keep the rules of
// its schema.
func (m *Method) decode(data mem.BufferSlice, p proto.Message) (_ proto.Message, valid bool, _ *Refusal) {
	if m.Decode != nil && m.Decode(data, p) {
		return p, true, nil
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if refusal := m.bounds.check(buf.ReadOnlyData()); refusal != nil {
		return nil, false, refusal
	}
	if err := proto.Unmarshal(buf.ReadOnlyData(), p); err != nil {
		return nil, false, &Refusal{Reason: Malformed, Cause: err}
	}
	return p, false, nil
}

// transport sorts the errors of reading: a body cut off in the middle of a
// message is malformed, all else passes.
func (s *gatedStream) transport(err error, msg *Message) error {
	if errors.Is(err, io.ErrUnexpectedEOF) && s.call.ctx.Err() == nil {
		msg.Err = Refuse(Malformed, "the body ends within a message")
		return nil
	}
	return err
}
