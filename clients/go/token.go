package sallyport

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/credentials"
)

// userToken shows the user's token with every call.
type userToken func(context.Context) (string, error)

var _ credentials.PerRPCCredentials = userToken(nil)

// GetRequestMetadata asks for the token. No error holds it.
func (t userToken) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := t(ctx)
	if err == nil && (token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })) {
		err = errors.New("it is empty or holds what a header cannot")
	}
	if err != nil {
		return nil, fmt.Errorf("token of the user: %w", err)
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

// RequireTransportSecurity keeps the token from connections that prove nothing.
func (userToken) RequireTransportSecurity() bool { return true }
