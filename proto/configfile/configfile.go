// Package configfile reads the messages of sallyport.config.v1 from YAML files:
// strictly, with the line and the rule of what is wrong.
package configfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"buf.build/go/protovalidate"
	"buf.build/go/protoyaml"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxBytes is far above any configuration, a policy of 100,000 rules included.
const maxBytes = 64 << 20

// ErrEmpty says that a file has no content. It is more likely half written than
// meant.
var ErrEmpty = errors.New("empty")

// Parse reads one YAML document into m and checks it against the rules of its
// schema. Path is only for errors, which begin with it and name each fault with
// its line and rule. Beside what YAML and the schema refuse, Parse refuses an
// empty file, a second document and a key that comes twice.
func Parse(path string, data []byte, m proto.Message) (err error) {
	// protoyaml looks for the line of a fault where there need not be one, and
	// panics. A reload must survive that.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: not readable as YAML: %v", path, r)
		}
	}()
	if len(data) > maxBytes {
		return fmt.Errorf("%s: larger than %d bytes", path, maxBytes)
	}
	if err := checkYAML(data, m.ProtoReflect().Descriptor()); err != nil {
		if slip := (*slipError)(nil); errors.As(err, &slip) {
			return fmt.Errorf("%s:%w", path, err) // as protoyaml writes it
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := (protoyaml.UnmarshalOptions{Path: path, Validator: validator{}}).Unmarshal(data, m); err != nil {
		return err // names the path on every line
	}
	return nil
}

// validator gives protovalidate the form that protoyaml wants.
type validator struct{}

func (validator) Validate(m proto.Message) error { return protovalidate.Validate(m) }

// checkYAML refuses what protoyaml would read without a word: a second
// document, which it drops; a second value for a key, which it lets win; and
// line breaks that YAML knows and protoyaml does not count, on which it panics.
func checkYAML(data []byte, schema protoreflect.MessageDescriptor) error {
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
		return ErrEmpty
	case err != nil:
		return err
	case len(document.Content) == 0 || document.Content[0].Tag == "!!null":
		return ErrEmpty
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %d: more than one document", second.Line)
	}
	return checkKeys(document.Content[0], schema)
}

// checkKeys refuses a key that comes twice. A field has one name here, as in the
// schema: Protobuf's JSON form has a second one, under which a field could come
// again.
func checkKeys(node *yaml.Node, schema protoreflect.MessageDescriptor) error {
	if node.Kind == yaml.SequenceNode {
		for _, item := range node.Content {
			if err := checkKeys(item, schema); err != nil {
				return err
			}
		}
	}
	if node.Kind != yaml.MappingNode {
		return nil
	}
	seen := make(map[string]bool, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := node.Content[i]
		if seen[key.Value] {
			return fmt.Errorf("line %d: key %q comes twice", key.Line, key.Value)
		}
		seen[key.Value] = true
		var inner protoreflect.MessageDescriptor
		if schema != nil {
			field := schema.Fields().ByName(protoreflect.Name(key.Value))
			if other := schema.Fields().ByJSONName(key.Value); field == nil && other != nil {
				return fmt.Errorf("line %d: %q is written %q", key.Line, key.Value, other.Name())
			}
			if meant := nearest(key.Value, schema); field == nil && meant != "" {
				return &slipError{key.Line, key.Column, key.Value, meant}
			}
			if field != nil && !field.IsMap() {
				inner = field.Message()
			}
		}
		if err := checkKeys(node.Content[i+1], inner); err != nil {
			return err
		}
	}
	return nil
}
