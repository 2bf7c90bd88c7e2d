//go:build nokms

package main

import (
	"strings"
	"testing"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
)

// What the tag leaves out is said at start, by the name of the tag.
func TestBuildWithoutKMS(t *testing.T) {
	_, err := openSealer(t.Context(), &configv1.Encryption{Key: &configv1.Encryption_Kms{Kms: "hashivault://audit"}})
	if err == nil || !strings.Contains(err.Error(), "kms hashivault://audit: ") || !strings.Contains(err.Error(), "nokms") {
		t.Error(err)
	}
}
