package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/spf13/cobra"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// keyFlags say which key opens sealed records. The commands that read the audit
// log all have them.
type keyFlags struct{ file, env, kms string }

func (f *keyFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.file, "key-file", "", "file with the key of 32 bytes that opens encrypted records (audit.encryption.local)")
	flags.StringVar(&f.env, "key-env", "", "environment variable with that key, base64-encoded")
	flags.StringVar(&f.kms, "key-kms", "", "URL of the key that opens them, such as hashivault://NAME (audit.encryption.kms)")
}

// keeper opens the key that the flags name; nil if they name none.
func (f *keyFlags) keeper(ctx context.Context) (audit.Keeper, error) {
	cfg := &configv1.Encryption{}
	flag := ""
	switch {
	case more(f.file, f.env, f.kms):
		return nil, usage(errors.New("--key-file, --key-env, --key-kms: give one"))
	case f.file != "":
		flag, cfg.Key = "--key-file", &configv1.Encryption_Local{Local: &configv1.Secret{Source: &configv1.Secret_File{File: f.file}}}
	case f.env != "":
		flag, cfg.Key = "--key-env", &configv1.Encryption_Local{Local: &configv1.Secret{Source: &configv1.Secret_Env{Env: f.env}}}
	case f.kms != "":
		flag, cfg.Key = "--key-kms", &configv1.Encryption_Kms{Kms: f.kms}
		if u, err := url.Parse(f.kms); err != nil || u.Scheme == "" || u.Host+u.Path+u.Opaque == "" {
			return nil, usage(errors.New("--key-kms: must be a URL of hashivault, awskms, gcpkms or azurekeyvault, such as hashivault://NAME"))
		}
	default:
		return nil, nil //nolint:nilnil // none is given
	}
	keeper, _, err := openKeeper(ctx, cfg)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", flag, err))
	}
	return keeper, nil
}

// unsealer opens records with the key that the flags name; nil if they name none.
func (f *keyFlags) unsealer(ctx context.Context) (*audit.Unsealer, error) {
	keeper, err := f.keeper(ctx)
	if keeper == nil || err != nil {
		return nil, err
	}
	return audit.NewUnsealer(keeper), nil
}

// view reads the log in dir with the key that the flags name.
func (f *keyFlags) view(ctx context.Context, dir string) (audit.View, error) {
	keys, err := f.unsealer(ctx)
	return audit.View{Dir: dir, Keys: keys}, err
}

// pseudonymFlags say under which key subjects were replaced.
type pseudonymFlags struct{ file, env string }

func (f *pseudonymFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.file, "pseudonym-key-file", "", "file with the key of pseudonyms (audit.pseudonym_key), to find a user by the subject")
	flags.StringVar(&f.env, "pseudonym-key-env", "", "environment variable with that key, base64-encoded")
}

// pseudonymizer is nil if no key is given.
func (f *pseudonymFlags) pseudonymizer() (*audit.Pseudonymizer, error) {
	from, flag := &configv1.Secret{}, ""
	switch {
	case more(f.file, f.env):
		return nil, usage(errors.New("--pseudonym-key-file, --pseudonym-key-env: give one"))
	case f.file != "":
		flag, from.Source = "--pseudonym-key-file", &configv1.Secret_File{File: f.file}
	case f.env != "":
		flag, from.Source = "--pseudonym-key-env", &configv1.Secret_Env{Env: f.env}
	default:
		return nil, nil //nolint:nilnil // none is given
	}
	p, err := openPseudonymizer(from)
	if err != nil {
		return nil, usage(fmt.Errorf("%s: %w", flag, err))
	}
	return p, nil
}

// onRecord is what stands for the subject on record: its pseudonym if a key is
// given, else the subject. A pseudonym stands for itself.
func (f *pseudonymFlags) onRecord(subject string) (string, error) {
	p, err := f.pseudonymizer()
	if p == nil || err != nil || subject == "" || audit.IsPseudonym(subject) {
		return subject, err
	}
	return p.Pseudonym(subject), nil
}

// more is whether several of the values are given.
func more(values ...string) bool {
	return len(slices.DeleteFunc(values, func(v string) bool { return v == "" })) > 1
}

// openPseudonymizer reads the key of pseudonyms; nil without a reference to one.
func openPseudonymizer(from *configv1.Secret) (*audit.Pseudonymizer, error) {
	if from == nil {
		return nil, nil //nolint:nilnil // none is wanted
	}
	key, err := secret(from)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return audit.NewPseudonymizer(key)
}
