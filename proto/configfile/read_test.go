package configfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/proto/configfile"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file, pipe, link := filepath.Join(dir, "file"), filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		path  string
		limit int64
		want  string // in the error; empty for none
	}{
		"as large as it may be": {file, 5, ""},
		"a link":                {link, 5, ""},
		"too large":             {file, 4, file + ": larger than 4 bytes"},
		"a directory":           {dir, 5, dir + ": a directory"},
		"a pipe":                {pipe, 5, pipe + ": not a regular file"},
		"a device":              {os.DevNull, 5, "not a regular file"},
		"absent":                {filepath.Join(dir, "none"), 5, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := configfile.Read(tt.path, tt.limit)
			switch {
			case tt.want != "":
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			case err != nil || string(data) != "12345":
				t.Errorf("got %q, %v", data, err)
			}
		})
	}
}
