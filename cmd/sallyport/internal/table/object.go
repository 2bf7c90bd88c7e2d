package table

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
)

// Member is one member of a JSON object.
type Member struct {
	Name  string
	Value json.RawMessage
}

// Members are the members of the object that data holds, in their order. A name
// that comes twice is an error: which value is meant?
func Members(path string, data []byte) ([]Member, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, at(path, "expected an object")
	}
	var out []Member
	seen := make(map[string]bool)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, at(path, err.Error())
		}
		m := Member{Name: tok.(string)} // what an object has before a value
		if err := dec.Decode(&m.Value); err != nil {
			return nil, at(path, err.Error())
		}
		if seen[m.Name] {
			return nil, at(path, fmt.Sprintf("%q comes twice", tensor.Abbreviate(m.Name)))
		}
		seen[m.Name] = true
		out = append(out, m)
	}
	return out, nil
}

// at is an error at a place of the input.
func at(path, text string) error {
	if path == "" {
		return errors.New(text)
	}
	return fmt.Errorf("%s: %s", path, text)
}
