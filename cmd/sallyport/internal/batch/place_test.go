package batch_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/batch"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
)

// run begins a run whose input is not there.
func run(t *testing.T, output string) error {
	t.Helper()
	_, err := batch.Run(t.Context(), batch.Config{
		Model: "m", Input: output + ".input", Output: output, InputFormat: table.FormatCSV, OutputFormat: table.FormatCSV, Overwrite: true,
	})
	return err
}

// In a directory that others may write to, somebody can be there first and put a link
// where the answers are to go.
func TestPlaceOfSomebodyElse(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, place string) error{
		"a link": func(t *testing.T, place string) error { return os.Symlink(t.TempDir(), place) },
		"a directory that others may write to": func(_ *testing.T, place string) error {
			return errors.Join(os.Mkdir(place, 0o700), os.Chmod(place, 0o722))
		},
	} {
		t.Run(name, func(t *testing.T) {
			output := filepath.Join(t.TempDir(), "answers.csv")
			if err := plant(t, output+".unfinished"); err != nil {
				t.Fatal(err)
			}
			if err := run(t, output); err == nil || !strings.Contains(err.Error(), "answers.csv.unfinished") {
				t.Errorf("run ended with %v", err)
			}
		})
	}
}

// What a run removes is its own.
func TestPlaceWithFilesOfTheUser(t *testing.T) {
	output := filepath.Join(t.TempDir(), "answers.csv")
	notes := filepath.Join(output+".unfinished", "notes.txt")
	if err := errors.Join(os.Mkdir(filepath.Dir(notes), 0o700), os.WriteFile(notes, []byte("keep"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := run(t, output); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("run ended with %v", err)
	}
	if _, err := os.Stat(notes); err != nil {
		t.Error(err)
	}
}

// A place that was of no worth goes.
func TestPlaceIsLeftClean(t *testing.T) {
	output := filepath.Join(t.TempDir(), "answers.csv")
	if err := run(t, output); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("run ended with %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(output)); err != nil || len(left) > 0 {
		t.Errorf("left %v: %v", left, err)
	}
}
