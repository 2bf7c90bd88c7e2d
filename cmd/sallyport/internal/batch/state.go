package batch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
)

const stateFormat = 1

// state is what a checkpoint holds: where the run is, in the input and in what it
// writes, and what it is a run of.
type state struct {
	Format   int      `json:"format"`
	Settings settings `json:"settings"`
	Version  int64    `json:"version"`
	Digest   string   `json:"digest"`
	// Position is where the rows begin that are not answered.
	Position table.Position `json:"position"`
	// Output and Errors are how many bytes are durable.
	Output   int64 `json:"output_bytes"`
	Errors   int64 `json:"errors_bytes"`
	Answered int64 `json:"answered"`
	Refused  int64 `json:"refused"`
}

// settings are what must be the same for a run to go on.
type settings struct {
	Input        identity `json:"input"`
	Model        string   `json:"model"`
	ModelVersion int64    `json:"model_version"`
	InputFormat  string   `json:"input_format"`
	OutputFormat string   `json:"output_format"`
	Outputs      []string `json:"outputs"`
	Keep         []string `json:"keep"`
	Ignore       []string `json:"ignore"`
	RowColumn    string   `json:"row_column"`
	Prefix       string   `json:"prefix"`
	Errors       string   `json:"errors"`
}

// identity tells one input from another.
type identity struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	// Head is the SHA-256 of the first 64 KiB.
	Head string `json:"head"`
}

func (r *run) settings() settings {
	return settings{
		Model: r.Model, ModelVersion: r.Version, InputFormat: string(r.InputFormat), OutputFormat: string(r.OutputFormat),
		Outputs: r.Outputs, Keep: r.Keep, Ignore: r.Ignore, RowColumn: r.RowColumn, Prefix: r.Prefix, Errors: r.Errors,
	}
}

// same says what is not as it was.
func (s settings) same(was settings) error {
	if was.Input.Size != s.Input.Size || !was.Input.Modified.Equal(s.Input.Modified) || was.Input.Head != s.Input.Head {
		return fmt.Errorf("the input has changed: it was %d bytes of %s and is %d bytes of %s",
			was.Input.Size, was.Input.Modified.Format(time.RFC3339Nano), s.Input.Size, s.Input.Modified.Format(time.RFC3339Nano))
	}
	for _, of := range []struct {
		name     string
		was, now any
		same     bool
	}{
		{"the model", was.Model, s.Model, was.Model == s.Model},
		{"--model-version", was.ModelVersion, s.ModelVersion, was.ModelVersion == s.ModelVersion},
		{"the input's format", was.InputFormat, s.InputFormat, was.InputFormat == s.InputFormat},
		{"the output's format", was.OutputFormat, s.OutputFormat, was.OutputFormat == s.OutputFormat},
		{"--outputs", list(was.Outputs), list(s.Outputs), slices.Equal(was.Outputs, s.Outputs)},
		{"--keep", list(was.Keep), list(s.Keep), slices.Equal(was.Keep, s.Keep)},
		{"--ignore", list(was.Ignore), list(s.Ignore), slices.Equal(was.Ignore, s.Ignore)},
		{"--row-column", was.RowColumn, s.RowColumn, was.RowColumn == s.RowColumn},
		{"--prefix", was.Prefix, s.Prefix, was.Prefix == s.Prefix},
		{"--errors", was.Errors, s.Errors, was.Errors == s.Errors},
	} {
		if !of.same {
			return fmt.Errorf("%s was %q and is %q", of.name, fmt.Sprint(of.was), fmt.Sprint(of.now))
		}
	}
	return nil
}

func list(names []string) string { return strings.Join(names, ",") }

// identify reads the head of a file and goes back to its start.
func identify(f *os.File) (identity, error) {
	info, err := f.Stat()
	if err != nil {
		return identity{}, err
	}
	if !info.Mode().IsRegular() {
		return identity{}, fmt.Errorf("%s is no regular file; pipe it in with %s", f.Name(), Pipe)
	}
	head := make([]byte, 64<<10)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return identity{}, err
	}
	sum := sha256.Sum256(head[:n])
	return identity{Size: info.Size(), Modified: info.ModTime().UTC(), Head: hex.EncodeToString(sum[:])}, nil
}
