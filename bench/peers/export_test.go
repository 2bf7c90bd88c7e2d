package peers

import (
	"github.com/sallyport/sallyport/bench/peers/oip"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// What goes over the wire, for tests.
var (
	JSONBody = jsonBody
	OfJSON   = ofJSON
	OfOIP    = ofOIP
)

// OIPWire is a request of MLServer as it is sent.
func OIPWire(model string, features *inferencev1.Tensor) ([]byte, error) {
	n, err := askOIP(nil, "key", question{model: model, features: features})
	if err != nil {
		return nil, err
	}
	return n.wire, nil
}

// SameAnswer compares answers.
func SameAnswer(a, b *Answer) error { return a.same(b) }

// Versions are those that are shown of each peer.
func Versions(c Config) (map[string]string, error) {
	all := map[string]string{}
	for name := range folders {
		text, err := c.versions(name)
		if err != nil {
			return nil, err
		}
		all[name] = text
	}
	return all, nil
}

// RawAnswer is an answer of MLServer.
type RawAnswer = oip.ModelInferResponse
