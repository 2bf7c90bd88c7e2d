package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// blockedWhileOpen opens a stream, leaves it alone, and blocks its caller.
func (d *demo) blockedWhileOpen(ctx context.Context) (err error) {
	c, err := d.as(ctx, "clinic")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	d.sent("PredictStream %s as the clinic, opened and left alone", demoModel)
	stream, err := inferencev1.NewPredictionServiceClient(c).PredictStream(ctx)
	if err != nil {
		return classify(err)
	}
	open := &inferencev1.PredictStreamRequest{Message: &inferencev1.PredictStreamRequest_Open{
		Open: &inferencev1.StreamOpen{Model: demoModel},
	}}
	if err := stream.Send(open); err != nil {
		return classify(err)
	}
	if _, err := stream.Recv(); err != nil {
		return classify(err)
	}

	path := filepath.Join(d.dir, "policy.yaml")
	before, err := os.ReadFile(path) //nolint:gosec // a directory of our own
	if err != nil {
		return err
	}
	d.sent("the operator blocks spiffe://sallyport.test/clinic/* in policy.yaml")
	start := time.Now()
	if err := replacePolicy(path, string(before)+"  - callers: [\"spiffe://sallyport.test/clinic/*\"]\n    reason: a key has leaked\n"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, replacePolicy(path, string(before))) }()
	_, err = stream.Recv()
	if err == nil {
		return errors.New("the stream goes on")
	}
	took := time.Since(start)
	d.got("after %s: %s", took.Round(time.Millisecond), indent(describeError(err)))
	if got := reasonOf(err); got != string(interceptors.IdentityRevoked) {
		return fmt.Errorf("ended with %q, not %q", got, interceptors.IdentityRevoked)
	}
	if took > time.Second {
		return errors.New("that took more than a second")
	}
	return nil
}

// replacePolicy puts a policy in the place of another at one blow.
func replacePolicy(path, content string) error {
	next := path + ".next"
	if err := os.WriteFile(next, []byte(content), 0o600); err != nil { //nolint:gosec // a directory of our own
		return err
	}
	return os.Rename(next, path)
}

// partner calls from a federated trust domain.
func (d *demo) partner(ctx context.Context) error {
	c, err := d.as(ctx, "partner")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	d.sent("GetModel digits as spiffe://partner.test/lab/batch, whose domain is federated")
	m, err := inferencev1.NewModelServiceClient(c).GetModel(ctx, &inferencev1.GetModelRequest{Model: "digits"})
	if err != nil {
		return classify(err)
	}
	d.got("%s, %s", m.GetModel().GetName(), count(len(m.GetModel().GetVersions()), "version"))
	rows, _, err := holdout()
	if err != nil {
		return err
	}
	d.sent("Predict %s, which its role does not have", demoModel)
	return d.refused(ctx, "partner", &inferencev1.PredictRequest{Model: demoModel, Inputs: features(rows[:1])}, interceptors.PolicyDenied)
}
