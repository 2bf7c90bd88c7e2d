//go:build nokms

package main

import (
	"context"
	"errors"
	"net/url"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// openKMS says what to do instead.
func openKMS(context.Context, *url.URL) (audit.Keeper, error) {
	return nil, errors.New("this binary was built without clients of key management services (the build tag nokms): build it without the tag, or use a local key")
}
