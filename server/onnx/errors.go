package onnx

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/server/model"
)

// invalid wraps model.ErrInvalidInput.
func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", model.ErrInvalidInput, fmt.Sprintf(format, args...))
}

// sourceLocation is where in its own source, on its builder's machine, ONNX
// Runtime says that an error arose: "/path/gather.cc:154 ".
var sourceLocation = regexp.MustCompile(`\S*/\S+\.(?:cc|h|cpp|hpp):\d+ `)

// runError tells an input's fault from the machine's. onnxruntime_go drops ONNX
// Runtime's error codes, and the failure of a node has the code FAIL whatever
// its reason, so the texts decide: what is not known is the machine's.
func runError(err error) error {
	text := message(err)
	switch {
	case strings.Contains(text, "allocat"), strings.Contains(text, "bad_alloc"):
	case strings.HasPrefix(text, "Non-zero status code returned while running"),
		strings.HasPrefix(text, "Got invalid dimensions for input"),
		strings.HasPrefix(text, "Invalid rank for input"):
		return invalid("%s", text)
	}
	return errors.New("ONNX Runtime: " + text)
}

// message is what ONNX Runtime said, without what onnxruntime_go says around it
// without paths, on one line.
func message(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			break
		}
		err = inner
	}
	return strings.Join(strings.Fields(sourceLocation.ReplaceAllString(err.Error(), "")), " ")
}
