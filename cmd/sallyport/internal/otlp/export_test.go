package otlp

// ParseEndpoint is parseEndpoint as text.
func ParseEndpoint(protocol, address string) (string, error) {
	u, err := parseEndpoint(protocol, address)
	if err != nil {
		return "", err
	}
	return u.String(), nil
}

var (
	Convert    = convert
	RetryAfter = retryAfter
)
