package audit

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"

	"github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"google.golang.org/protobuf/proto"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

// maxProvable is the largest record that a proof can carry, whose format has lines
// of at most 64 KiB.
const maxProvable = 48 << 10

// ErrNotCovered says that a checkpoint is from before a record.
var ErrNotCovered = errors.New("not covered yet")

// Prove makes the proof that the record of a call is in the log that a checkpoint
// is of: in the form of C2SP tlog-proof, with the record as it is stored as the
// extra data. Without a checkpoint it is the last one of the log. The error wraps
// ErrNoCall if there is no such record, ErrNotCovered if it is younger than the
// checkpoint; a log that does not lead to the checkpoint
// is a *TamperError.
//
// It reads one hash for each record that the checkpoint covers.
func Prove(dir, callID string, checkpoint []byte) ([]byte, error) {
	p, err := prove(dir, callID, checkpoint)
	if err != nil {
		return nil, fmt.Errorf("prove call %q: %w", callID, err)
	}
	return p, nil
}

func prove(dir, callID string, given []byte) ([]byte, error) {
	at, err := find(dir, callID)
	if err != nil {
		return nil, err
	}
	if len(at.raw) > maxProvable {
		return nil, fmt.Errorf("its record has %d bytes, more than the %d that a proof can carry", len(at.raw), maxProvable)
	}
	firsts, err := segments(dir)
	if err != nil {
		return nil, err
	}
	var c Checkpoint
	if given != nil {
		c, err = ParseCheckpoint(given, nil)
	} else {
		c, err = lastCheckpoint(dir, firsts)
	}
	if err != nil {
		return nil, err
	}
	seq := at.record.GetSequence()
	if seq > c.Size {
		return nil, fmt.Errorf("%w: the checkpoint covers %d records, and that of the call is record %d: wait for the next one, which the server makes within seconds", ErrNotCovered, c.Size, seq)
	}
	hashes, err := newProver(dir, firsts, c.Size)
	if err != nil {
		return nil, err
	}
	steps, err := tlog.ProveRecord(int64(c.Size), int64(seq-1), hashes) //nolint:gosec // sequences stay below 2^63
	if err != nil {
		return nil, err
	}
	if err := tlog.CheckRecord(steps, int64(c.Size), c.Root, int64(seq-1), tlog.RecordHash(at.raw)); err != nil { //nolint:gosec // as above
		return nil, &TamperError{File: dir, Sequence: 1, Through: c.Size, Reason: fmt.Sprintf(
			"the records do not have the root of the checkpoint of %d records: 'sallyport audit verify' tells more", c.Size)}
	}
	out := proof.TLogProof{Index: seq - 1, Checkpoint: c.Note, ExtraData: at.raw}
	for _, h := range steps {
		out.Hashes = append(out.Hashes, h)
	}
	return out.Marshal(), nil
}

// lastCheckpoint is the last one that the log has made.
func lastCheckpoint(dir string, firsts []uint64) (Checkpoint, error) {
	for _, first := range slices.Backward(firsts) {
		all, err := readCheckpoints(dir, first, nil)
		if err != nil {
			return Checkpoint{}, err
		}
		if len(all) > 0 {
			return all[len(all)-1], nil
		}
	}
	return Checkpoint{}, errors.New("the log has no checkpoint")
}

// Proven is what CheckProof found to be true.
type Proven struct {
	// Record was in the log. If it is sealed, its sealed part is proved as it is.
	Record *auditv1.Record
	// Checkpoint is of the log it was in.
	Checkpoint Checkpoint
}

// CheckProof checks a proof with nothing but public keys: one of them must have
// signed its checkpoint. If a checkpoint is given too, the proof must be for just
// that one, for example for one that a witness keeps.
func CheckProof(data []byte, verifiers note.Verifiers, checkpoint []byte) (*Proven, error) {
	if verifiers == nil {
		return nil, errors.New("check proof: no public key is given")
	}
	var p proof.TLogProof
	if err := p.Unmarshal(data); err != nil {
		return nil, fmt.Errorf("check proof: %w", err)
	}
	c, err := ParseCheckpoint(p.Checkpoint, verifiers)
	if err != nil {
		return nil, fmt.Errorf("check proof: %w", err)
	}
	if checkpoint != nil {
		want, err := ParseCheckpoint(checkpoint, verifiers)
		if err != nil {
			return nil, fmt.Errorf("check proof: the checkpoint given: %w", err)
		}
		if want.Origin != c.Origin || want.Size != c.Size || want.Root != c.Root {
			return nil, fmt.Errorf("check proof: it is for a checkpoint of %d records of %q, not for the one given, of %d records of %q with root %x",
				c.Size, c.Origin, want.Size, want.Origin, want.Root)
		}
	}
	if p.Index >= c.Size || len(p.Hashes) > 64 {
		return nil, errors.New("check proof: the record lies beyond what the checkpoint covers")
	}
	var steps tlog.RecordProof
	for _, h := range p.Hashes {
		steps = append(steps, h)
	}
	if err := tlog.CheckRecord(steps, int64(c.Size), c.Root, int64(p.Index), tlog.RecordHash(p.ExtraData)); err != nil { //nolint:gosec // a size beyond 2^63 does not verify
		return nil, errors.New("check proof: the record is NOT in the log that the checkpoint is of, or the proof was changed")
	}
	record := new(auditv1.Record)
	if err := proto.Unmarshal(p.ExtraData, record); err != nil || record.GetSequence() != p.Index+1 {
		return nil, errors.New("check proof: what is proved is not a record of an audit log with this sequence")
	}
	return &Proven{Record: record, Checkpoint: c}, nil
}

// prover reads hashes of the tree, as tlog asks for them. What retention has
// deleted it knows from the edges in the first header that is left.
type prover struct {
	before tree
	leaves []hash // of the records after before, up to the checkpoint
}

var _ tlog.HashReader = (*prover)(nil)

func newProver(dir string, firsts []uint64, size uint64) (*prover, error) {
	before, err := headerTree(dir, firsts[0])
	if err != nil {
		return nil, err
	}
	if size < before.size {
		return nil, fmt.Errorf("the checkpoint covers %d records, all of which retention has deleted", size)
	}
	p := &prover{before: before}
	for i, first := range firsts {
		if first > size {
			break
		}
		count := size + 1 - first
		if i+1 < len(firsts) {
			count = min(count, firsts[i+1]-first)
		}
		leaves, err := segmentLeaves(dir, first, count)
		if err != nil {
			return nil, err
		}
		p.leaves = append(p.leaves, leaves...)
	}
	return p, nil
}

// segmentLeaves are the hashes of the first count records of a segment: from its
// index, or else from the segment.
func segmentLeaves(dir string, first, count uint64) ([]hash, error) {
	if x, err := openIndex(dir, first); err == nil {
		defer x.close()
		if uint64(x.count) >= count { //nolint:gosec // not negative
			return x.leaves(0, int64(count)) //nolint:gosec // bounded by x.count, and that by the file
		}
	}
	r, err := openReader(dir, first)
	if err != nil {
		return nil, err
	}
	defer r.close()
	var leaves []hash
	for uint64(len(leaves)) < count {
		_, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil, r.tampered(fmt.Sprintf("the log ends with record %d, before the end of the checkpoint: it was cut off, or the checkpoint is of another log", r.seq))
		}
		if err != nil {
			return nil, err
		}
		leaves = append(leaves, r.leaf)
	}
	return leaves, nil
}

// ReadHashes returns hashes of complete subtrees.
func (p *prover) ReadHashes(indexes []int64) ([]hash, error) {
	out := make([]hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		h, err := p.subtree(level, uint64(n)) //nolint:gosec // not negative
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}

// subtree is the root of the n-th complete subtree of 2^level records.
func (p *prover) subtree(level int, n uint64) (hash, error) {
	from, to := n<<level, (n+1)<<level
	switch {
	case to <= p.before.size:
		// Complete subtrees of what is deleted are known only as edges.
		at := uint64(0)
		for i, left := 0, p.before.size; left > 0; i++ {
			size := uint64(1) << (bits.Len64(left) - 1)
			if at == from && at+size == to {
				return p.before.edges[i], nil
			}
			at, left = at+size, left-size
		}
		return hash{}, fmt.Errorf("the hash of records %d to %d is not known any more: retention has deleted them", from+1, to)
	case level == 0:
		i := from - p.before.size
		if i >= uint64(len(p.leaves)) {
			return hash{}, fmt.Errorf("record %d is not covered", to)
		}
		return p.leaves[i], nil
	}
	left, err := p.subtree(level-1, 2*n)
	if err != nil {
		return hash{}, err
	}
	right, err := p.subtree(level-1, 2*n+1)
	if err != nil {
		return hash{}, err
	}
	return tlog.NodeHash(left, right), nil
}
