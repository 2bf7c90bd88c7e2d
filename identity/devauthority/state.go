package devauthority

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A CA is stored in one file, so that key and certificate cannot part: its
// private key, its certificate, then the older certificates, all PEM.

func statePath(dir string, td spiffeid.TrustDomain) string {
	return filepath.Join(dir, td.Name()+".pem")
}

// loadCA reads a CA; nil if there is no file.
func loadCA(path string, td spiffeid.TrustDomain) (*ca, error) {
	f, err := os.Open(path) //nolint:gosec // in the folder of the authority
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("CA key %s is open to other users (mode %#o): chmod 600 it, or remove it for a new CA if one of them may have read it", path, mode)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	c, err := parseCA(raw, td)
	if err != nil {
		return nil, fmt.Errorf("CA key %s is damaged: %w; put a good copy there, or remove it for a new CA", path, err)
	}
	return c, nil
}

func parseCA(raw []byte, td spiffeid.TrustDomain) (*ca, error) {
	c := &ca{td: td}
	var certs []*x509.Certificate
	for len(bytes.TrimSpace(raw)) > 0 {
		block, rest := pem.Decode(raw)
		if block == nil {
			return nil, errors.New("not PEM to its end")
		}
		raw = rest
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			var ok bool
			if c.key, ok = key.(crypto.Signer); !ok {
				return nil, fmt.Errorf("a key of type %T cannot sign", key)
			}
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			certs = append(certs, cert)
		default:
			return nil, fmt.Errorf("unknown block %q", block.Type)
		}
	}
	switch {
	case c.key == nil:
		return nil, errors.New("no private key in it")
	case len(certs) == 0:
		return nil, errors.New("no certificate in it")
	}
	c.cert, c.older = certs[0], certs[1:]
	public, ok := c.key.Public().(*ecdsa.PublicKey)
	switch {
	case !ok || !public.Equal(c.cert.PublicKey):
		return nil, errors.New("key and certificate do not belong together")
	case !c.cert.IsCA || len(c.cert.URIs) != 1 || c.cert.URIs[0].String() != td.IDString():
		return nil, fmt.Errorf("not the CA of %s", td)
	}
	return c, nil
}

// storeCA puts the CA in the place of what is there, wholly or not at all.
func storeCA(path string, c *ca) error {
	key, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := pem.Encode(&buf, &pem.Block{Type: "PRIVATE KEY", Bytes: key}); err != nil {
		return err
	}
	for _, cert := range append([]*x509.Certificate{c.cert}, c.older...) {
		if err := pem.Encode(&buf, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return err
		}
	}
	return writeFile(path, buf.Bytes())
}

// writeFile replaces a file, readable by its owner only, and returns when it is
// on disk.
func writeFile(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the folder of the authority
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
