package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// maxProofBytes is more than a proof has.
const maxProofBytes = 256 << 10

func newAuditProve() *cobra.Command {
	var dir, call, checkpoint string
	cmd := &cobra.Command{
		Use:   "prove [DIR] --call ID",
		Short: "Print the proof that a call is on record",
		Long: `Print the proof that a call is on record, in the form of C2SP tlog-proof: the record
as it is stored, its place, the hashes that lead from it to the root of a signed
checkpoint, and that checkpoint. Who has the log's public key checks it with 'sallyport
audit check-proof', without the log.

The proof is for the last checkpoint, or for the one given with --checkpoint, such as
one that a witness keeps.`,
		Example: "  sallyport audit prove ./dev/audit --call 01JABCDEF > call.tlog-proof",
		Args:    args(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			dir, err := auditDir(cmd, a, dir)
			if err != nil {
				return err
			}
			if call == "" {
				return usage(errors.New("--call: the call's id must be given"))
			}
			note, err := oneCheckpoint(checkpoint)
			if err != nil {
				return err
			}
			proof, err := audit.Prove(dir, call, note)
			if errors.Is(err, audit.ErrNoCall) {
				_, err = findCall(cmd.Context(), audit.View{Dir: dir}, call) // says what was searched
			}
			if err != nil {
				return whereLog(err, "--dir")
			}
			_, err = cmd.OutOrStdout().Write(proof)
			return err
		},
	}
	cmd.Flags().StringVar(&dir, "dir", defaultAuditDir, "directory of the log")
	cmd.Flags().StringVar(&call, "call", "", "id of the call")
	cmd.Flags().StringVar(&checkpoint, "checkpoint", "", "file with the checkpoint to prove against; the log's last one unless given")
	return cmd
}

func newAuditCheckProof() *cobra.Command {
	var given trust
	var json bool
	cmd := &cobra.Command{
		Use:   "check-proof FILE --public-key KEY",
		Short: "Check a proof that a call is on record",
		Long: `Check a proof that 'sallyport audit prove' made, and show the record that it proves. It
takes the log's public key and nothing else; with --checkpoint the proof must besides
be for just that checkpoint. FILE may be - for standard input. A proof that does not
hold exits with 1.`,
		Example: "  sallyport audit check-proof call.tlog-proof --public-key audit.pub",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			keys, err := given.keys()
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				return usage(errors.New("--public-key: the log's public key must be given"))
			}
			verifiers, err := audit.ParseVerifiers(keys...)
			if err != nil {
				return usage(err)
			}
			if len(given.checkpoints) > 1 {
				return usage(errors.New("--checkpoint: a proof is for one checkpoint"))
			}
			var note []byte
			if len(given.checkpoints) == 1 {
				if note, err = oneCheckpoint(given.checkpoints[0]); err != nil {
					return err
				}
			}
			data, err := readProof(cmd.InOrStdin(), a[0])
			if err != nil {
				return err
			}
			proven, err := audit.CheckProof(data, verifiers, note)
			if err != nil {
				return err
			}
			return showProven(cmd.OutOrStdout(), proven, json)
		},
	}
	given.register(cmd)
	cmd.Flags().BoolVar(&json, "json", false, "print the record alone, as one line of JSON")
	return cmd
}

func showProven(w io.Writer, p *audit.Proven, json bool) error {
	if json {
		return writeMessage(w, p.Record)
	}
	if err := writeRecordHeader(w); err != nil {
		return err
	}
	if err := writeRecord(w, p.Record); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "proved: this is record %d of the %s that the checkpoint of %s covers, root %x\n",
		p.Record.GetSequence(), count64(p.Checkpoint.Size, "record"), printable(p.Checkpoint.Origin), p.Checkpoint.Root)
	return err
}

// oneCheckpoint is the checkpoint in a file; nil if path is empty.
func oneCheckpoint(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	notes, err := audit.Witnessed(path)
	if err == nil && len(notes) != 1 {
		err = fmt.Errorf("%s has %d checkpoints: give a file with one", path, len(notes))
	}
	if err != nil {
		return nil, usage(fmt.Errorf("--checkpoint: %w", err))
	}
	return notes[0], nil
}

func readProof(stdin io.Reader, path string) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path) //nolint:gosec // the operator's own file
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // opened for reading only
		stdin = f
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxProofBytes+1))
	if err == nil && len(data) > maxProofBytes {
		err = fmt.Errorf("%s: more than the %d bytes that a proof has", path, maxProofBytes)
	}
	return data, err
}
