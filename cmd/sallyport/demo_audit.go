package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/audit"
)

// trail shows the audit log, that it has what was shown before, and that it
// verifies.
func (d *demo) trail(ctx context.Context) error {
	dir := filepath.Join(d.dir, "audit")
	if err := d.expectRecords(ctx, dir); err != nil {
		return err
	}
	d.sent("sallyport audit show %s", dir)
	if err := showAudit(ctx, d.out, audit.View{Dir: dir}, &showFlags{}); err != nil {
		return err
	}
	if _, _, err := d.covered(ctx, dir); err != nil {
		return err
	}
	d.sent("sallyport audit verify %s", dir)
	return verifyAudit(d.out, dir, trust{})
}

// prove proves one call to somebody who has the log's public key and nothing else,
// once a checkpoint covers it.
func (d *demo) prove(ctx context.Context) error {
	dir := filepath.Join(d.dir, "audit")
	public, err := signingKey("", filepath.Join(d.dir, "audit-signing.key"))
	if err != nil {
		return err
	}
	verifiers, err := audit.ParseVerifiers(public)
	if err != nil {
		return err
	}
	call, proof, err := d.covered(ctx, dir)
	if err != nil {
		return err
	}
	d.sent("sallyport audit prove %s --call %s > call.tlog-proof", dir, call)
	d.sent("sallyport audit check-proof call.tlog-proof --public-key %s", public)
	proven, err := audit.CheckProof(proof, verifiers, nil)
	if err != nil {
		return err
	}
	return showProven(d.out, proven, false)
}

// covered proves the last call that the policy denied, once a checkpoint covers it.
func (d *demo) covered(ctx context.Context, dir string) (call string, proof []byte, err error) {
	for rec, err := range (audit.View{Dir: dir}).Records(ctx, 0) {
		if err != nil {
			return "", nil, err
		}
		if rec.GetReason() == string(interceptors.PolicyDenied) {
			call = rec.GetCallId()
		}
	}
	for patience := time.Now().Add(10 * time.Second); ; {
		if proof, err = audit.Prove(dir, call, nil); err == nil || !errors.Is(err, audit.ErrNotCovered) || time.Now().After(patience) {
			return call, proof, err
		}
		if !pause(ctx, 50*time.Millisecond) {
			return "", nil, ctx.Err()
		}
	}
}

// expectRecords waits until the log has one record of each scene: those of
// handshakes are written after the connection is refused.
func (d *demo) expectRecords(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	handshakes := 0
	missing := map[string]bool{
		"":                                    true, // answered
		string(interceptors.PolicyDenied):     true,
		string(interceptors.ContractViolated): true,
		string(interceptors.RequestInvalid):   true,
		string(interceptors.QuotaRows):        true,
	}
	for rec, err := range (audit.View{Dir: dir}).Follow(ctx, 1) {
		if err != nil {
			return err
		}
		switch rec.GetKind() {
		case auditv1.Kind_KIND_HANDSHAKE:
			handshakes++
		case auditv1.Kind_KIND_CALL:
			delete(missing, rec.GetReason())
		default:
		}
		if len(missing) == 0 && handshakes >= 2 {
			return nil
		}
	}
	return fmt.Errorf("%d refused handshakes on record, want 2; no record with the reasons %v", handshakes, missing)
}

// tamper changes one byte in a copy of the log.
func (d *demo) tamper(context.Context) error {
	log, copied := filepath.Join(d.dir, "audit"), filepath.Join(d.dir, "audit-tampered")
	if err := os.CopyFS(copied, os.DirFS(log)); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(copied, "*.log"))
	if err != nil || len(segments) == 0 {
		return errors.Join(err, errors.New("no segment in "+copied))
	}
	data, err := os.ReadFile(segments[0])
	if err != nil {
		return err
	}
	at := len(data) / 2
	was := data[at]
	data[at] ^= 1
	if err := os.WriteFile(segments[0], data, 0o600); err != nil { //nolint:gosec // a copy in a directory of our own
		return err
	}
	d.sent("byte %d of %s changed from %#02x to %#02x; sallyport audit verify %s", at, filepath.Base(segments[0]), was, data[at], copied)
	err = verifyAudit(d.out, copied, trust{})
	var tampered *audit.TamperError
	if !errors.As(err, &tampered) {
		return fmt.Errorf("verifying found nothing: %w", err)
	}
	d.got("%v", err)
	return nil
}
