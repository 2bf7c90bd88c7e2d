package otlp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
)

// Protocols by their names in OpenTelemetry's settings.
const (
	GRPC = "grpc"
	HTTP = "http/protobuf"
)

// TLSFiles are where keys and certificates are; all may be empty. Without CA the
// system's roots count.
type TLSFiles struct{ CA, Cert, Key string }

// parseEndpoint reads the URL of a collector. Without TLS only this machine is
// reached.
func parseEndpoint(protocol, address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("no URL") // the error has the address, which may have a password
	}
	switch {
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("user, password, query and fragment are not taken, as a command line is no place for a secret: give headers by file")
	case u.Hostname() == "":
		return nil, errors.New("names no host; expected for example https://collector.example:4318")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("scheme %q: must be https, or http for a collector on this machine", u.Scheme)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, fmt.Errorf("http to %s would send the audit log in the clear: use https; http is for loopback only", u.Hostname())
	}
	bare := u.Path == "" || u.Path == "/"
	switch protocol {
	case GRPC:
		if !bare {
			return nil, fmt.Errorf("path %q: gRPC takes none", u.Path)
		}
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), "4317")
		}
	case HTTP:
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), "4318")
		}
		if bare {
			u.Path = "/v1/logs"
		}
	default:
		return nil, fmt.Errorf("protocol %q: must be %s or %s", protocol, GRPC, HTTP)
	}
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// config is how to speak TLS.
func (f TLSFiles) config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", f.CA)
		}
	}
	switch {
	case (f.Cert == "") != (f.Key == ""):
		return nil, errors.New("a client certificate needs its key, and a key its certificate")
	case f.Cert != "":
		if _, err := tls.LoadX509KeyPair(f.Cert, f.Key); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(f.Cert, f.Key) // again, as SVIDs are replaced
			return &pair, err
		}
	}
	return cfg, nil
}
