package model

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// maxManifestBytes is far above any manifest with 100,000 columns.
const maxManifestBytes = 16 << 20

// ParseManifest reads a model's manifest from YAML: one document in which no
// key comes twice. Path is only for errors, which name it with the line and
// the rule that is broken. A file without content is refused: it is more
// likely half written than meant to lift the contract.
func ParseManifest(path string, data []byte) (*configv1.ModelManifest, error) {
	if len(data) > maxManifestBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxManifestBytes)
	}
	if err := checkYAML(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	m := new(configv1.ModelManifest)
	opts := protoyaml.UnmarshalOptions{Path: path, Validator: validator{}}
	if err := opts.Unmarshal(data, m); err != nil {
		return nil, err
	}
	return m, nil
}

type validator struct{}

func (validator) Validate(m proto.Message) error { return protovalidate.Validate(m) }

// checkYAML refuses what protoyaml would read without a word: a second
// document, which it drops, a second value for a key, which it lets win, and
// line breaks that YAML knows and protoyaml does not count, on which it
// panics.
func checkYAML(data []byte) error {
	lines := bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	for _, lineBreak := range []string{"\r", "\u0085", "\u2028", "\u2029"} {
		if before, _, found := bytes.Cut(lines, []byte(lineBreak)); found {
			return fmt.Errorf("line %d: line break %+q is not supported", 1+bytes.Count(before, []byte("\n")), lineBreak)
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return errors.New("empty")
	case err != nil:
		return err
	case document.Content[0].Tag == "!!null":
		return errors.New("empty")
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %d: more than one document", second.Line)
	}
	return checkKeys(&document)
}

func checkKeys(node *yaml.Node) error {
	if node.Kind == yaml.MappingNode {
		seen := make(map[string]bool, len(node.Content)/2)
		for i := 0; i < len(node.Content); i += 2 {
			key := node.Content[i]
			if seen[key.Value] {
				return fmt.Errorf("line %d: key %q comes twice", key.Line, key.Value)
			}
			seen[key.Value] = true
		}
	}
	for _, child := range node.Content {
		if err := checkKeys(child); err != nil {
			return err
		}
	}
	return nil
}
