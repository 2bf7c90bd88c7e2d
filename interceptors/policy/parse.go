package policy

import (
	"fmt"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/proto/configfile"
)

// Parse reads a policy written in YAML and checks it against the rules of its
// schema. The error joins all faults, each with name, line and rule. What is
// unknown is a fault, and so is a policy without roles: it would lock everyone
// out, and an empty or truncated file is likelier than the wish to do so.
func Parse(data []byte, name string) (*configv1.Policy, error) {
	p := &configv1.Policy{}
	if err := configfile.Parse(name, data, p); err != nil {
		return nil, err
	}
	if len(p.GetRoles()) == 0 {
		return nil, fmt.Errorf("%s: the policy has no roles", name)
	}
	return p, nil
}
