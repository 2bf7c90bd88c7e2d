package onnx_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"runtime"
	"testing"
	"time"

	ort "github.com/yalue/onnxruntime_go"

	"github.com/sallyport/sallyport/server/model"
	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// BenchmarkBesideSession runs the examples through Runner.Run and through a session
// of ONNX Runtime alone, whose inputs and outputs are made once: all that a run
// costs there is the run. The two take turns, so that a noisy machine is noisy to
// both. "speed" is the session's time over the runner's: 1 is as fast as can be.
func BenchmarkBesideSession(b *testing.B) {
	for _, c := range []struct {
		model   string
		columns int64
		rows    []int64
	}{
		{"breast-cancer/1", 30, []int64{1, 64, 4096}},
		{"digits/1", 64, []int64{1, 64, 4096}},
	} {
		artifact, err := os.ReadFile("../../examples/models/" + c.model + "/model.onnx")
		if err != nil {
			b.Fatal(err)
		}
		m, err := onnxtest.Open(b).Load(artifact)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = m.Close() })
		for _, rows := range c.rows {
			b.Run(fmt.Sprintf("%s/rows=%d", c.model, rows), func(b *testing.B) {
				x := &model.Tensor{DType: model.Float32, Shape: []int64{rows, c.columns}}
				for i := range rows * c.columns {
					x.Data = binary.LittleEndian.AppendUint32(x.Data, math.Float32bits(float32(i*7919%160)/10))
				}
				in := tensors{m.Signature().Inputs[0].Name: x}
				session := bareSession(b, artifact, x)
				ctx := b.Context()
				var bare, gated time.Duration
				runs := max(1, int(256/rows)) // in a turn
				var before, after runtime.MemStats
				allocated := uint64(0)
				for b.Loop() {
					start := time.Now()
					for range runs {
						if err := session.Run(); err != nil {
							b.Fatal(err)
						}
					}
					middle := time.Now()
					for range runs {
						if _, err := m.Run(ctx, in, nil); err != nil {
							b.Fatal(err)
						}
					}
					bare += middle.Sub(start)
					gated += time.Since(middle)
				}
				runtime.ReadMemStats(&before)
				for range runs {
					_, _ = m.Run(ctx, in, nil)
				}
				runtime.ReadMemStats(&after)
				allocated = (after.Mallocs - before.Mallocs) / uint64(runs)
				n := float64(b.N * runs)
				b.ReportMetric(float64(bare)/float64(gated), "speed")
				b.ReportMetric(float64(bare)/n, "session-ns/run")
				b.ReportMetric(float64(gated)/n, "runner-ns/run")
				b.ReportMetric(float64(allocated), "allocs/run")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// bareSession is a session with the graph and the settings of a Runner, and with its inputs and
// outputs made beforehand.
func bareSession(b *testing.B, artifact []byte, x *model.Tensor) *ort.AdvancedSession {
	b.Helper()
	data, feeds, fetches, err := onnx.Adapt(artifact)
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	must(err)
	options, err := ort.NewSessionOptions()
	must(err)
	defer func() { _ = options.Destroy() }()
	must(options.SetIntraOpNumThreads(1))
	must(options.SetInterOpNumThreads(1))
	elements := make([]float32, len(x.Data)/4)
	for i := range elements {
		elements[i] = math.Float32frombits(binary.LittleEndian.Uint32(x.Data[4*i:]))
	}
	pin := new(runtime.Pinner)
	pin.Pin(&elements[0])
	b.Cleanup(pin.Unpin)
	input, err := ort.NewTensor(x.Shape, elements)
	must(err)
	shaped, err := ort.NewDynamicAdvancedSessionWithONNXData(data, feeds, fetches, options)
	must(err)
	outputs := make([]ort.Value, len(fetches))
	must(shaped.Run([]ort.Value{input}, outputs))
	must(shaped.Destroy())
	for _, v := range outputs {
		switch v := v.(type) {
		case *ort.Tensor[float32]:
			pin.Pin(&v.GetData()[0])
		case *ort.Tensor[int64]:
			pin.Pin(&v.GetData()[0])
		}
	}
	session, err := ort.NewAdvancedSessionWithONNXData(data, feeds, fetches, []ort.Value{input}, outputs, options)
	must(err)
	b.Cleanup(func() {
		must(session.Destroy())
		must(input.Destroy())
		for _, v := range outputs {
			must(v.Destroy())
		}
	})
	return session
}
