package main

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

var shown = []*inferencev1.Model{
	{
		Name: "alpha", Version: 2, Versions: []int64{1, 2}, MaxRows: 64,
		Digest:      "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		Description: "first\x1b[2J\nsecond",
		Inputs:      named,
		Outputs:     []*inferencev1.TensorSpec{spec("label", int64s, []int64{-1}), spec("p", float32s, []int64{-1, 2})},
	},
	{Name: "beta", Version: 1, Versions: []int64{1}, Inputs: text},
}

var trailing = regexp.MustCompile(`(?m) +$`)

func TestListModelsGetsAllPages(t *testing.T) {
	models, err := listModels(t.Context(), inferencev1.NewModelServiceClient(serveInMemory(t, &scriptedServer{models: shown})))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shown, models, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestWriteModels(t *testing.T) {
	var b bytes.Buffer
	if err := writeModels(&b, shown); err != nil {
		t.Fatal(err)
	}
	want := `NAME   VERSION  VERSIONS  INPUTS                 OUTPUTS                         DIGEST
alpha  2        1,2       features FLOAT32[N,2]  label INT64[N], p FLOAT32[N,2]  sha256:0123456789ab
beta   1        1         text STRING[N,1]
`
	if diff := cmp.Diff(want, trailing.ReplaceAllString(b.String(), "")); diff != "" {
		t.Error(diff)
	}

	b.Reset()
	if err := writeModel(&b, shown[0]); err != nil {
		t.Fatal(err)
	}
	want = `name         alpha
description  first\x1b[2J\nsecond
version      2 of 1,2
digest       sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
most rows    64
input        features FLOAT32[N,2]
  columns    a, b
output       label INT64[N]
output       p FLOAT32[N,2]
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}

	b.Reset()
	if err := writeModels(&b, nil); err != nil || b.String() != "no models that this caller may see\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

// protojson varies its white space from build to build.
func TestWriteMessageIsStable(t *testing.T) {
	var b bytes.Buffer
	if err := writeMessage(&b, shown[1]); err != nil {
		t.Fatal(err)
	}
	want := `{"name":"beta","version":"1","versions":["1"],"inputs":[{"name":"text","dataType":"DATA_TYPE_STRING","shape":["-1","1"]}]}` + "\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}
