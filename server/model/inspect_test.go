package model_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sallyport/sallyport/examples"
	"github.com/sallyport/sallyport/server/model"
)

// message joins fields into a protobuf message.
func message(fields ...[]byte) []byte {
	var m []byte
	for _, f := range fields {
		m = append(m, f...)
	}
	return m
}

// with is a field that holds the message made of fields.
func with(number protowire.Number, fields ...[]byte) []byte {
	b := protowire.AppendTag(nil, number, protowire.BytesType)
	return protowire.AppendBytes(b, message(fields...))
}

func text(number protowire.Number, s string) []byte { return with(number, []byte(s)) }

func number(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

// The fields of onnx.proto that the tests use.
func graph(fields ...[]byte) []byte       { return with(7, fields...) }
func node(fields ...[]byte) []byte        { return with(1, fields...) }
func attribute(fields ...[]byte) []byte   { return with(5, fields...) }
func initializer(fields ...[]byte) []byte { return with(5, fields...) }
func function(fields ...[]byte) []byte    { return with(25, fields...) }
func imports(domain string) []byte        { return with(8, text(1, domain), number(2, 1)) }
func op(domain, name string) []byte       { return message(text(7, domain), text(4, name)) }
func weights() []byte                     { return message(number(1, 2), number(2, 1), text(8, "w"), text(9, "12345678")) }
func inFile() []byte {
	return message(text(8, "w"), with(13, text(1, "location"), text(2, "/etc/passwd")))
}
func subgraph(fields ...[]byte) []byte { return attribute(text(1, "body"), with(6, fields...)) }
func artifact(distinguish string) []byte {
	return message(number(1, 8), text(2, distinguish), graph(text(2, "g")))
}
func nested(depth int, inner []byte) []byte {
	for range depth {
		inner = node(subgraph(inner))
	}
	return inner
}

func TestInspect(t *testing.T) {
	for name, tt := range map[string]struct {
		artifact []byte
		want     error // nil: accepted
		where    string
	}{
		"weights inside": {graph(initializer(weights())), nil, ""},
		"nodes of all allowed domains": {message(imports(""), imports("ai.onnx.ml"), imports("com.microsoft"), graph(
			node(op("", "Add")), node(op("ai.onnx", "Add")), node(op("ai.onnx.ml", "ZipMap")), node(op("com.microsoft", "Tokenizer")))), nil, ""},
		"imports that the optimiser leaves": {message(imports("com.microsoft.nchwc"), imports("org.pytorch.aten"), graph()), nil, ""},
		"function of its own":               {message(graph(node(op("mine", "F"))), imports("mine"), function(text(10, "mine"), text(1, "F"))), nil, ""},
		"nested as deep as may be":          {graph(nested(33, nil)), nil, ""},

		"external entry":              {graph(initializer(inFile())), model.ErrExternal, `tensor "w"`},
		"external location":           {graph(initializer(text(8, "w"), number(14, 1))), model.ErrExternal, `tensor "w"`},
		"external location, overlong": {graph(initializer(text(8, "w"), number(14, 1<<32+1))), model.ErrExternal, `tensor "w"`},
		"external then not":           {graph(initializer(text(8, "w"), number(14, 1), number(14, 0))), model.ErrExternal, `tensor "w"`},
		"external in a second graph":  {message(graph(), graph(initializer(inFile()))), model.ErrExternal, `tensor "w"`},
		"external sparse values":      {graph(with(15, with(1, inFile()))), model.ErrExternal, `sparse tensor: tensor "w"`},
		"external sparse indices":     {graph(with(15, with(2, inFile()))), model.ErrExternal, `sparse tensor: tensor "w"`},
		"external attribute":          {graph(node(text(3, "n"), attribute(text(1, "value"), with(5, inFile())))), model.ErrExternal, `node "n": attribute "value": tensor "w"`},
		"external attribute in list":  {graph(node(attribute(with(10, inFile())))), model.ErrExternal, `tensor "w"`},
		"external sparse attribute":   {graph(node(attribute(with(22, with(1, inFile()))))), model.ErrExternal, `tensor "w"`},
		"external sparse list":        {graph(node(attribute(with(23, with(1, inFile()))))), model.ErrExternal, `tensor "w"`},
		"external in subgraph":        {graph(node(subgraph(initializer(inFile())))), model.ErrExternal, `attribute "body": tensor "w"`},
		"external in subgraph list":   {graph(node(attribute(with(11, initializer(inFile()))))), model.ErrExternal, `tensor "w"`},
		"external deep down":          {graph(nested(20, initializer(inFile()))), model.ErrExternal, `tensor "w"`},
		"external in function":        {message(graph(), function(text(1, "F"), with(7, attribute(with(5, inFile()))))), model.ErrExternal, `function "F": node: attribute: tensor "w"`},
		"external default attribute":  {message(graph(), function(with(11, with(5, inFile())))), model.ErrExternal, `tensor "w"`},
		"external in training":        {message(graph(), with(20, with(1, initializer(inFile())))), model.ErrExternal, `training: tensor "w"`},
		"compiled model elsewhere":    {graph(node(text(3, "n"), op("com.microsoft", "EPContext"))), model.ErrExternal, `node "n"`},

		"node of unknown domain":        {graph(node(text(3, "n"), op("evil.example", "Shell"))), model.ErrOperator, `node "n": operator domain not allowed: "Shell" of "evil.example"`},
		"import of unknown domain":      {message(graph(), imports("evil.example")), model.ErrOperator, `"evil.example"`},
		"import in a function":          {message(graph(), function(text(1, "F"), with(9, text(1, "evil.example")))), model.ErrOperator, `function "F"`},
		"node in a subgraph":            {graph(node(subgraph(node(op("evil.example", "Shell"))))), model.ErrOperator, `"Shell"`},
		"node in a function":            {message(graph(), function(with(7, op("evil.example", "Shell")))), model.ErrOperator, `"Shell"`},
		"node of an import-only domain": {graph(node(op("org.pytorch.aten", "ATen"))), model.ErrOperator, `"ATen"`},
		"no function of that name":      {message(graph(node(op("mine", "G"))), function(text(10, "mine"), text(1, "F"))), model.ErrOperator, `"G" of "mine"`},
		"domain given twice":            {graph(node(op("", "Add"), text(7, "evil.example"))), model.ErrOperator, `"evil.example"`},
		"domain hidden by wire type":    {graph(node(op("evil.example", "Add"), number(7, 1))), model.ErrOperator, `"evil.example"`},
		"name fit for a log":            {graph(node(text(3, "n\n\x1b"+strings.Repeat("x", 100)), op("evil.example", "Shell"))), model.ErrOperator, `node "n\n\x1b` + strings.Repeat("x", 61) + `"…`},

		"empty":             {nil, model.ErrMalformed, "no graph"},
		"no graph":          {number(1, 8), model.ErrMalformed, "no graph"},
		"half written":      {graph(initializer(weights()))[:12], model.ErrMalformed, ""},
		"text":              {[]byte("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), model.ErrMalformed, ""},
		"group":             {message(graph(), []byte{0x7b, 0x7c}), model.ErrMalformed, ""},
		"graph is a number": {number(7, 1), model.ErrMalformed, "field 7"},
		"nested too deep":   {graph(nested(34, nil)), model.ErrMalformed, "nests deeper"},
		"in ORT format too": {message(text(2, "..ORTM.."), graph()), model.ErrMalformed, "ORT"},
	} {
		t.Run(name, func(t *testing.T) {
			err := model.Inspect(tt.artifact)
			if !errors.Is(err, tt.want) || (tt.want == nil) != (err == nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), tt.where) {
				t.Errorf("%q does not contain %q", err, tt.where)
			}
		})
	}
}

func TestInspectExamples(t *testing.T) {
	paths, err := fs.Glob(examples.FS, "models/*/*/model.onnx")
	if err != nil || len(paths) == 0 {
		t.Fatalf("paths %v, error %v", paths, err)
	}
	for _, path := range paths {
		b, err := examples.FS.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := model.Inspect(b); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(graph(node(subgraph(initializer(inFile()))), with(15, with(1, weights()))))
	f.Add(message(imports("mine"), function(text(10, "mine"), text(1, "F")), graph(node(op("mine", "F")))))
	f.Add(graph(nested(40, nil)))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := model.Inspect(b)
		for _, reason := range []error{nil, model.ErrMalformed, model.ErrExternal, model.ErrOperator} {
			if errors.Is(err, reason) {
				return
			}
		}
		t.Errorf("error without a reason: %v", err)
	})
}
