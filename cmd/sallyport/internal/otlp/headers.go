package otlp

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// HeaderFile is a header whose value is in a file: a secret that is on no command
// line. It is read for every attempt, so that a token may be replaced.
type HeaderFile struct{ Name, File string }

// maxHeaderBytes bounds the value of a header.
const maxHeaderBytes = 16 << 10

// ParseHeaderFile reads NAME=FILE.
func ParseHeaderFile(s string) (HeaderFile, error) {
	name, file, ok := strings.Cut(s, "=")
	name = strings.ToLower(name)
	switch {
	case !ok || file == "":
		return HeaderFile{}, fmt.Errorf("%q: must be NAME=FILE", s)
	case !httpguts.ValidHeaderFieldName(name):
		return HeaderFile{}, fmt.Errorf("%q: no name of a header", name)
	case strings.HasPrefix(name, "grpc-") || strings.HasSuffix(name, "-bin") || strings.HasPrefix(name, "content-") || name == "te" || name == "host":
		return HeaderFile{}, fmt.Errorf("%q: a header of the protocol itself", name)
	}
	return HeaderFile{name, file}, nil
}

// read is the header's value.
func (h HeaderFile) read() (string, error) {
	info, err := os.Stat(h.File)
	switch {
	case err != nil:
		return "", fmt.Errorf("header %s: %w", h.Name, err)
	case info.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("header %s: %s has mode %#o: others can read it; chmod 600 %s", h.Name, h.File, info.Mode().Perm(), h.File)
	case info.Size() > maxHeaderBytes:
		return "", fmt.Errorf("header %s: %s is longer than %d bytes", h.Name, h.File, maxHeaderBytes)
	}
	value, err := os.ReadFile(h.File)
	if err != nil {
		return "", fmt.Errorf("header %s: %w", h.Name, err)
	}
	text := string(bytes.TrimSpace(value))
	if text == "" || !httpguts.ValidHeaderFieldValue(text) {
		return "", fmt.Errorf("header %s: %s holds no value of a header", h.Name, h.File) // not what it holds
	}
	return text, nil
}

// readHeaders are the names and values, one after the other.
func readHeaders(files []HeaderFile) ([]string, error) {
	pairs := make([]string, 0, 2*len(files))
	for _, h := range files {
		value, err := h.read()
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, h.Name, value)
	}
	return pairs, nil
}
