package model

import (
	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/proto/configfile"
)

// maxManifestBytes is far above any manifest with 100,000 columns.
const maxManifestBytes = 16 << 20

// ParseManifest reads a model's manifest from YAML: one document in which no
// key comes twice. Path is only for errors, which name it with the line and
// the rule that is broken. A file without content is refused: it is more
// likely half written than meant to lift the contract.
func ParseManifest(path string, data []byte) (*configv1.ModelManifest, error) {
	m := new(configv1.ModelManifest)
	if err := configfile.Parse(path, data, m); err != nil {
		return nil, err
	}
	return m, nil
}
