package peers_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sallyport/sallyport/bench/peers"
	"github.com/sallyport/sallyport/bench/peers/oip"
	"github.com/sallyport/sallyport/bench/target"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

func features(t *testing.T, model string, rows int) *inferencev1.Tensor {
	t.Helper()
	r, err := target.NewRequest(model, rows)
	if err != nil {
		t.Fatal(err)
	}
	return r.Inputs["features"]
}

// What JSON carries is, rounded to float32, bit for bit what gRPC carries.
func TestJSONBody(t *testing.T) {
	for _, model := range []string{target.BreastCancer, target.Digits} {
		in := features(t, model, 171)
		var body struct{ Features [][]float64 }
		if err := json.Unmarshal(peers.JSONBody(in), &body); err != nil {
			t.Fatal(err)
		}
		var raw []byte
		for _, row := range body.Features {
			if int64(len(row)) != in.GetShape()[1] {
				t.Fatalf("%s: a row of %d features", model, len(row))
			}
			for _, v := range row {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(v)))
			}
		}
		if !bytes.Equal(raw, in.GetRaw()) {
			t.Errorf("%s: JSON has other numbers", model)
		}
	}
}

// The request has the fields of the published protocol, by number.
func TestOIPWire(t *testing.T) {
	in := features(t, target.Digits, 2)
	wire, err := peers.OIPWire(target.Digits, in)
	if err != nil {
		t.Fatal(err)
	}
	var tensor, want []byte
	tensor = protowire.AppendString(protowire.AppendTag(tensor, 1, protowire.BytesType), "features")
	tensor = protowire.AppendString(protowire.AppendTag(tensor, 2, protowire.BytesType), "FP32")
	tensor = protowire.AppendBytes(protowire.AppendTag(tensor, 3, protowire.BytesType), []byte{2, 64})
	want = protowire.AppendString(protowire.AppendTag(want, 1, protowire.BytesType), target.Digits)
	want = protowire.AppendBytes(protowire.AppendTag(want, 5, protowire.BytesType), tensor)
	want = protowire.AppendBytes(protowire.AppendTag(want, 7, protowire.BytesType), in.GetRaw())
	if diff := cmp.Diff(want, wire); diff != "" {
		t.Error(diff)
	}
}

// An answer is the same in each form, and another one is not.
func TestAnswers(t *testing.T) {
	label := binary.LittleEndian.AppendUint64(nil, 1)
	probabilities := binary.LittleEndian.AppendUint32(nil, math.Float32bits(0.1))
	probabilities = binary.LittleEndian.AppendUint32(probabilities, math.Float32bits(0.9))
	raw, err := peers.OfOIP(&peers.RawAnswer{
		Outputs:           []*oip.ModelInferResponse_InferOutputTensor{{Name: "label"}, {Name: "probabilities"}},
		RawOutputContents: [][]byte{label, probabilities},
	})
	if err != nil {
		t.Fatal(err)
	}
	// Python has a float32 as a float64 and writes all digits of that.
	text, err := peers.OfJSON([]byte(`{"model":"m","label":[1],"probabilities":[[0.10000000149011612,0.8999999761581421]]}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := peers.SameAnswer(raw, text); err != nil {
		t.Error(err)
	}
	other, err := peers.OfJSON([]byte(`{"label":[1],"probabilities":[[0.10000000149011612,0.899999916553497]]}`))
	if err != nil {
		t.Fatal(err)
	}
	if peers.SameAnswer(raw, other) == nil {
		t.Error("another probability is the same")
	}
	if peers.SameAnswer(new(peers.Answer), new(peers.Answer)) == nil {
		t.Error("nothing is an answer")
	}
}

// Envoy's configuration is YAML once it is filled in, and names who may call what.
func TestEnvoyRenders(t *testing.T) {
	var filled bytes.Buffer
	err := peers.Envoy{
		Port: 1001, AdminPort: 1002, UpstreamPort: 1003, Files: "/files", Log: "/log", TrustDomain: "sallyport.test",
		Callers: []peers.EnvoyCaller{
			{Name: "a", ID: "spiffe://sallyport.test/a", Models: []string{"one", "two"}},
			{Name: "b", ID: "spiffe://sallyport.test/b", Models: []string{"one"}},
		},
	}.Render("envoy/envoy.yaml", &filled)
	if err != nil {
		t.Fatal(err)
	}
	var config any
	if err := yaml.Unmarshal(filled.Bytes(), &config); err != nil {
		t.Fatalf("%v in:\n%s", err, &filled)
	}
	policies := find(config, "policies").(map[string]any)
	if len(policies) != 2 {
		t.Fatalf("policies of %d callers", len(policies))
	}
	for name, models := range map[string]int{"a": 2, "b": 1} {
		policy := policies[name]
		if id := find(policy, "principal_name"); !cmp.Equal(id, map[string]any{"exact": "spiffe://sallyport.test/" + name}) {
			t.Errorf("the policy of %s is of %v", name, id)
		}
		or := find(find(policy, "or_rules"), "rules").([]any)
		if len(or) != models {
			t.Errorf("%s may call %v", name, or)
		}
	}
	if find(config, "require_client_certificate") != true {
		t.Error("no certificate is asked for")
	}
	if limits := find(config, "descriptors").([]any); len(limits) != 2 {
		t.Errorf("limits of %d callers", len(limits))
	}
}

// find is the first value of the key, wherever it is.
func find(in any, key string) any {
	switch in := in.(type) {
	case map[string]any:
		if v, ok := in[key]; ok {
			return v
		}
		for _, v := range in {
			if found := find(v, key); found != nil {
				return found
			}
		}
	case []any:
		for _, v := range in {
			if found := find(v, key); found != nil {
				return found
			}
		}
	}
	return nil
}

// Everything that is installed is pinned by version and hash, and what the results
// name is among it.
func TestPinned(t *testing.T) {
	if _, err := peers.Versions(peers.Config{Source: "."}); err != nil {
		t.Error(err)
	}
	files, err := filepath.Glob("*/requirements.txt")
	if err != nil || len(files) != 4 {
		t.Fatalf("requirements %q, error %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		entries := strings.Split(strings.ReplaceAll(string(text), "\\\n", ""), "\n")
		for _, line := range entries {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			if !strings.Contains(line, "==") || !strings.Contains(line, "--hash=sha256:") {
				t.Errorf("%s: %q is not pinned", file, line)
			}
		}
	}
}
