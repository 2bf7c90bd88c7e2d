//go:build !nokms

package main

import (
	"context"
	"fmt"
	"net/url"

	"gocloud.dev/secrets"
	_ "gocloud.dev/secrets/awskms"        // awskms://
	_ "gocloud.dev/secrets/azurekeyvault" // azurekeyvault://
	_ "gocloud.dev/secrets/gcpkms"        // gcpkms://

	"github.com/sallyport/sallyport/interceptors/audit"
)

var _ audit.Keeper = (*secrets.Keeper)(nil)

// openKMS opens a key of a key management service. Who asks is what the service's
// own environment variables, files and metadata servers say.
func openKMS(ctx context.Context, u *url.URL) (audit.Keeper, error) {
	switch u.Scheme {
	case "hashivault":
		return openVault(u)
	case "awskms", "gcpkms", "azurekeyvault":
		return secrets.OpenKeeper(ctx, u.String())
	default:
		return nil, fmt.Errorf("%q is none of hashivault, awskms, gcpkms, azurekeyvault", u.Scheme)
	}
}
