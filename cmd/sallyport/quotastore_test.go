//go:build redis

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore"
	"github.com/sallyport/sallyport/interceptors/quota/redisstore/redistest"
)

// selfSigned writes a certificate for 127.0.0.1 that is its own CA, and its key.
func selfSigned(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The server is known by the CA that was given and by no other, and knows us by our
// certificate.
func TestRedisOverTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := dir+"/cert.pem", dir+"/key.pem"
	selfSigned(t, cert, key)
	selfSigned(t, dir+"/other.pem", dir+"/other.key")
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(lis.Addr().String())
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	redistest.Start(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "yes")
	for _, tt := range []struct {
		name string
		tls  *configv1.RedisTLS
		want string
	}{
		{"both know each other", &configv1.RedisTLS{CaFile: cert, CertFile: cert, KeyFile: key}, ""},
		{"the system's CAs do not know it", &configv1.RedisTLS{CertFile: cert, KeyFile: key}, "certificate"},
		{"another CA", &configv1.RedisTLS{CaFile: dir + "/other.pem", CertFile: cert, KeyFile: key}, "certificate"},
		{"another name", &configv1.RedisTLS{CaFile: cert, CertFile: cert, KeyFile: key, ServerName: "elsewhere.test"}, "elsewhere.test"},
		{"we bring none", &configv1.RedisTLS{CaFile: cert}, "redis: "},
		{"we bring another", &configv1.RedisTLS{CaFile: cert, CertFile: dir + "/other.pem", KeyFile: dir + "/other.key"}, "redis: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := redisTLS(tt.tls)
			if err != nil {
				t.Fatal(err)
			}
			s, err := redisstore.New(redisstore.Config{Addresses: []string{"127.0.0.1:" + port}, TLS: cfg, Timeout: 2 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close() //nolint:errcheck // a test's
			err = s.Probe(t.Context())
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
