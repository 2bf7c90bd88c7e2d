package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	logformat "github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
)

// Checkpoint is a signed statement that a log of Size records has the root Root.
type Checkpoint struct {
	// Origin names the log; it is the name of the key that signed.
	Origin string
	// Size is the number of records that are covered, from the first on.
	Size uint64
	// Root is the root of the Merkle tree over them.
	Root [32]byte
	// Note is the checkpoint as it is stored and sent: a signed note (C2SP
	// tlog-checkpoint).
	Note []byte
	// Keys are the keys of the signatures that were checked, "name+hash"; empty if
	// none was.
	Keys []string
}

// SigningKey is an Ed25519 key that signs checkpoints. Its name is the origin of
// the log.
type SigningKey struct {
	signer note.Signer
	public string
}

// GenerateKey makes a key for a log of that name, for example
// "example.org/sallyport/prod". private is what ParseSigningKey takes and must be
// kept secret; public is what verifies the log.
func GenerateKey(name string) (private, public string, err error) {
	private, public, err = note.GenerateKey(rand.Reader, name)
	if err != nil {
		return "", "", fmt.Errorf("generate a signing key: %w", err)
	}
	// A name that is none shows only now.
	if _, err := note.NewVerifier(public); err != nil {
		return "", "", fmt.Errorf("generate a signing key: the name %q must not be empty nor have spaces or a plus sign", name)
	}
	return private, public, nil
}

// ParseSigningKey parses the private half of a key. Errors never quote it.
func ParseSigningKey(private string) (*SigningKey, error) {
	private = strings.TrimSpace(private)
	bad := errors.New("not a signing key: it must be one line, PRIVATE+KEY+name+hash+key, as 'sallyport audit key' makes it")
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, bad
	}
	// The last part is an algorithm's byte and the seed; a name has no plus sign.
	parts := strings.SplitN(private, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, bad
	}
	half, _ := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	public, err := note.NewEd25519VerifierKey(signer.Name(), half)
	if err != nil {
		return nil, bad
	}
	return &SigningKey{signer: signer, public: public}, nil
}

// Public is the public half, "name+hash+key".
func (k *SigningKey) Public() string { return k.public }

// String is the public half, so that no log ever gets the other one.
func (k *SigningKey) String() string { return k.public }

// GoString is String.
func (k *SigningKey) GoString() string { return k.public }

// sign makes the checkpoint of a tree.
func (k *SigningKey) sign(t *tree) (Checkpoint, error) {
	root := t.root()
	body := logformat.Checkpoint{Origin: k.signer.Name(), Size: t.size, Hash: root[:]}.Marshal()
	signed, err := note.Sign(&note.Note{Text: string(body)}, k.signer)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("sign checkpoint: %w", err)
	}
	return Checkpoint{Origin: k.signer.Name(), Size: t.size, Root: root, Note: signed}, nil
}

// ParseVerifiers parses public keys.
func ParseVerifiers(public ...string) (note.Verifiers, error) {
	var verifiers []note.Verifier
	for _, p := range public {
		v, err := note.NewVerifier(strings.TrimSpace(p))
		if err != nil {
			return nil, fmt.Errorf("public key %q: must be name+hash+key, as 'sallyport audit key' printed it", p)
		}
		verifiers = append(verifiers, v)
	}
	return note.VerifierList(verifiers...), nil
}

// signRemoval makes the statement that retention deletes the records up to through.
func (k *SigningKey) signRemoval(through uint64) (string, error) {
	signed, err := note.Sign(&note.Note{Text: removalText(k.signer.Name(), through)}, k.signer)
	if err != nil {
		return "", fmt.Errorf("sign removal: %w", err)
	}
	return string(signed), nil
}

func removalText(origin string, through uint64) string {
	return fmt.Sprintf("%s retention\n%d\n", origin, through)
}

// isRemoval tells whether statement says, signed by one of the keys, that the records
// up to through are deleted.
func isRemoval(statement []byte, through uint64, verifiers note.Verifiers) bool {
	n, err := note.Open(statement, verifiers)
	return err == nil && slices.ContainsFunc(n.Sigs, func(s note.Signature) bool { return n.Text == removalText(s.Name, through) })
}

// errUnsigned says that no known key signed a checkpoint.
var errUnsigned = errors.New("it is not signed by a key that is known")

// ParseCheckpoint parses a checkpoint. With verifiers at least one of them must
// have signed it; nil checks no signature.
func ParseCheckpoint(data []byte, verifiers note.Verifiers) (Checkpoint, error) {
	var body logformat.Checkpoint
	text, _, found := bytes.Cut(data, []byte("\n\n"))
	if !found {
		return Checkpoint{}, errors.New("not a checkpoint: not a signed note")
	}
	if rest, err := body.Unmarshal(append(text, '\n')); err != nil || len(rest) > 0 || len(body.Hash) != len(hash{}) {
		return Checkpoint{}, errors.New("not a checkpoint: it must have an origin, a size and a root")
	}
	c := Checkpoint{Origin: body.Origin, Size: body.Size, Root: hash(body.Hash), Note: bytes.Clone(data)}
	if verifiers == nil {
		return c, nil
	}
	n, err := note.Open(data, verifiers)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint of %d records of %q: %w", c.Size, c.Origin, errUnsigned)
	}
	for _, sig := range n.Sigs {
		c.Keys = append(c.Keys, fmt.Sprintf("%s+%08x", sig.Name, sig.Hash))
	}
	return c, nil
}

// splitNotes splits signed notes that stand one behind the other; rest is what
// follows the last whole one.
func splitNotes(data []byte) (notes [][]byte, rest []byte) {
	for {
		n := noteLength(data, true)
		if n == 0 {
			return notes, data
		}
		notes, data = append(notes, data[:n:n]), data[n:]
	}
}

// noteLength is the length of the signed note that data begins with: its text, an
// empty line and at least one signature. It is 0 if there is none, or, unless data
// is all there is, if more of it may follow.
func noteLength(data []byte, all bool) int {
	const signature = "— "
	text := bytes.Index(data, []byte("\n\n"))
	if text < 0 {
		return 0
	}
	end := text + 2
	for bytes.HasPrefix(data[end:], []byte(signature)) {
		line := bytes.IndexByte(data[end:], '\n')
		if line < 0 {
			return 0
		}
		end += line + 1
	}
	if end == text+2 || !all && len(data)-end < len(signature) {
		return 0 // a text without signatures, or one whose next line is not known yet
	}
	return end
}
