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
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A CA is stored in one file, so that key and certificate cannot part: its
// private key, its certificate, then the older certificates, all PEM. The JWT
// keys have another: the private key, then the older public ones. Of what is
// older a header says when it leaves the bundle.

const leavesHeader = "Leaves-Bundle"

func statePath(dir string, td spiffeid.TrustDomain) string {
	return filepath.Join(dir, td.Name()+".pem")
}

// jwtStatePath has a sign that no trust domain's name can have: it is not the
// statePath of another one.
func jwtStatePath(dir string, td spiffeid.TrustDomain) string {
	return filepath.Join(dir, td.Name()+"+jwt.pem")
}

// loadCA reads a CA; nil if there is no file.
func loadCA(path string, td spiffeid.TrustDomain) (c *ca, err error) {
	err = load(path, "CA", func(raw []byte) (err error) {
		c, err = parseCA(raw, td)
		return err
	})
	return c, err
}

// load reads a file with private keys, if it is there. What names what is in it.
func load(path, what string, parse func([]byte) error) error {
	f, err := os.Open(path) //nolint:gosec // in the folder of the authority
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s key %s is open to other users (mode %#o): chmod 600 it, or remove it for a new %s if one of them may have read it", what, path, mode, what)
	}
	raw, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if err := parse(raw); err != nil {
		return fmt.Errorf("%s key %s is damaged: %w; put a good copy there, or remove it for a new %s", what, path, err, what)
	}
	return nil
}

// blocks calls f for each PEM block of raw.
func blocks(raw []byte, f func(*pem.Block) error) error {
	for len(bytes.TrimSpace(raw)) > 0 {
		block, rest := pem.Decode(raw)
		if block == nil {
			return errors.New("not PEM to its end")
		}
		raw = rest
		if err := f(block); err != nil {
			return err
		}
	}
	return nil
}

// leaves is when what is in the block leaves the bundle; zero if it does not say.
func leaves(block *pem.Block) (time.Time, error) {
	text, there := block.Headers[leavesHeader]
	if !there {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, text)
}

func leaving(at time.Time) map[string]string {
	return map[string]string{leavesHeader: at.UTC().Format(time.RFC3339Nano)}
}

func parseCA(raw []byte, td spiffeid.TrustDomain) (*ca, error) {
	c := &ca{td: td}
	err := blocks(raw, func(block *pem.Block) error {
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return err
			}
			var ok bool
			if c.key, ok = key.(crypto.Signer); !ok {
				return fmt.Errorf("a key of type %T cannot sign", key)
			}
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return err
			}
			if c.cert == nil {
				c.cert = cert
				return nil
			}
			at, err := leaves(block)
			if err != nil {
				return err
			}
			if at.IsZero() || cert.NotAfter.Before(at) {
				at = cert.NotAfter
			}
			c.older = append(c.older, formerCA{cert, at})
		default:
			return fmt.Errorf("unknown block %q", block.Type)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	switch {
	case c.key == nil:
		return nil, errors.New("no private key in it")
	case c.cert == nil:
		return nil, errors.New("no certificate in it")
	}
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
	if err := pem.Encode(&buf, &pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}); err != nil {
		return err
	}
	for _, old := range c.older {
		if err := pem.Encode(&buf, &pem.Block{Type: "CERTIFICATE", Headers: leaving(old.leaves), Bytes: old.cert.Raw}); err != nil {
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
