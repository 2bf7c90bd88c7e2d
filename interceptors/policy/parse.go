package policy

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

// Parse reads a policy written in YAML and checks it against the rules of its
// schema. The error joins all faults, each with name, line and rule. What is
// unknown is a fault, and so is a policy without roles: it would lock everyone
// out, and an empty or truncated file is likelier than the wish to do so.
func Parse(data []byte, name string) (p *configv1.Policy, err error) {
	// protoyaml looks up the line of a fault by "\n" only, where YAML knows more
	// line breaks, and panics on the difference. A reload must survive that.
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, fmt.Errorf("%s: not readable as YAML: %v", name, r)
		}
	}()
	p = &configv1.Policy{}
	if err := (protoyaml.UnmarshalOptions{Path: name, Validator: rules{}}).Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := oneDocument(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(p.GetRoles()) == 0 {
		return nil, fmt.Errorf("%s: the policy has no roles", name)
	}
	return p, nil
}

// rules gives protovalidate the shape that protoyaml wants.
type rules struct{}

func (rules) Validate(m proto.Message) error { return protovalidate.Validate(m) }

// oneDocument refuses what protoyaml passes over in silence: a second document
// and a key given twice. Either could hide a list of blocked callers.
func oneDocument(data []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var content any
	if err := dec.Decode(&content); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := dec.Decode(&content); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document")
	}
	return nil
}
