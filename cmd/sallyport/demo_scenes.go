package main

import (
	"context"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/sallyport/sallyport/examples"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors"
)

const demoModel = "breast-cancer"

// holdout reads the rows that no model was trained on and their true labels.
func holdout() (rows [][]float32, labels []int64, err error) {
	records, err := readCSV("data/" + demoModel + "-holdout.csv")
	if err != nil {
		return nil, nil, err
	}
	for _, record := range records {
		last := len(record) - 1
		row := make([]float32, last)
		for i, cell := range record[:last] {
			v, err := strconv.ParseFloat(cell, 32)
			if err != nil {
				return nil, nil, err
			}
			row[i] = float32(v)
		}
		label, err := strconv.ParseInt(record[last], 10, 64)
		if err != nil {
			return nil, nil, err
		}
		rows, labels = append(rows, row), append(labels, label)
	}
	return rows, labels, nil
}

// readCSV reads the rows of an example file, without its header.
func readCSV(path string) (_ [][]string, err error) {
	f, err := examples.FS.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	records, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, err
	}
	return records[1:], nil
}

// features is the input of demoModel.
func features(rows [][]float32) map[string]*inferencev1.Tensor {
	t := &inferencev1.Tensor{
		DataType: inferencev1.DataType_DATA_TYPE_FLOAT32,
		Shape:    []int64{int64(len(rows)), int64(len(rows[0]))},
	}
	for _, row := range rows {
		for _, v := range row {
			t.Raw = binary.LittleEndian.AppendUint32(t.Raw, math.Float32bits(v))
		}
	}
	return map[string]*inferencev1.Tensor{"features": t}
}

func (d *demo) predict(ctx context.Context) error {
	rows, labels, err := holdout()
	if err != nil {
		return err
	}
	c, err := d.as(ctx, "clinic")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	d.sent("Predict %s, one row of %d measurements: %v ...", demoModel, len(rows[0]), rows[0][:4])
	request := &inferencev1.PredictRequest{Model: demoModel, Inputs: features(rows[:1])}
	// Typed fields are for people to read; the answer comes back as it was asked.
	t := request.GetInputs()["features"]
	t.Raw, t.FloatValues = nil, rows[0]
	var header metadata.MD
	r, err := inferencev1.NewPredictionServiceClient(c).Predict(ctx, request, grpc.Header(&header))
	if err != nil {
		return classify(err)
	}
	label := r.GetOutputs()["label"].GetInt64Values()
	p := r.GetOutputs()["probabilities"].GetFloatValues()
	if len(label) != 1 || len(p) != 2 {
		return fmt.Errorf("outputs %v", r.GetOutputs())
	}
	d.got("label %d (%s), probability %.4f; the truth is %d", label[0], meaning(label[0]), p[label[0]], labels[0])
	d.got("by %s version %d, %s", r.GetModel(), r.GetVersion(), r.GetDigest())
	d.got("call id %s", strings.Join(header.Get(interceptors.CallIDHeader), ""))
	return nil
}

func meaning(label int64) string {
	if label == 0 {
		return "malignant"
	}
	return "benign"
}

func (d *demo) stream(ctx context.Context) error {
	rows, labels, err := holdout()
	if err != nil {
		return err
	}
	want, err := scikitLabels()
	if err != nil {
		return err
	}
	c, err := d.as(ctx, "ward-batch")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	const size = 16
	d.sent("PredictStream %s, %d rows in batches of %d", demoModel, len(rows), size)
	bar := progressbar.NewOptions(len(rows), progressbar.OptionSetWriter(d.out), progressbar.OptionSetDescription("   "),
		progressbar.OptionShowCount(), progressbar.OptionSetWidth(40), progressbar.OptionThrottle(50*time.Millisecond), progressbar.OptionSetPredictTime(false))
	start := time.Now()
	p, err := predictStream(ctx, c.Stream, request{
		model:    demoModel,
		data:     &dataset{inputs: features(rows), rows: len(rows)},
		batch:    size,
		progress: func(done int) { _ = bar.Set(done) },
	})
	if err != nil {
		return classify(err)
	}
	took := time.Since(start)
	d.printf("\n")
	raw := p.outputs["label"].GetRaw()
	if len(raw) != 8*len(rows) {
		return fmt.Errorf("%d bytes of labels for %d rows", len(raw), len(rows))
	}
	right, same := 0, 0
	for i := range rows {
		label := int64(binary.LittleEndian.Uint64(raw[8*i:])) //nolint:gosec // two's complement is meant
		if label == labels[i] {
			right++
		}
		if label == want[i] {
			same++
		}
	}
	d.got("%d rows in %s by version %d, %s", len(rows), took.Round(time.Millisecond), p.version, p.digest)
	d.got("%d labels are right: accuracy %.1f %%; %d are those that scikit-learn gives", right, 100*float64(right)/float64(len(rows)), same)
	if same != len(rows) || right < len(rows)*9/10 {
		return errors.New("the labels are not scikit-learn's, or fewer than 90 % are right")
	}
	return nil
}

// scikitLabels are what scikit-learn answers to the rows of holdout.
func scikitLabels() ([]int64, error) {
	records, err := readCSV("vectors/" + demoModel + "/2.csv")
	if err != nil {
		return nil, err
	}
	var labels []int64
	for _, record := range records {
		label, err := strconv.ParseInt(record[0], 10, 64)
		if err != nil {
			return nil, err
		}
		labels = append(labels, label)
	}
	return labels, nil
}

func (d *demo) stranger(ctx context.Context) error {
	source, err := identity.Open(ctx, identity.Config{WorkloadAPI: filepath.Join(d.dir, "workloads", "clinic.sock")})
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	// It knows whom to trust, but has no certificate of its own to show.
	creds := credentials.NewTLS(tlsconfig.TLSClientConfig(source, tlsconfig.AuthorizeAny()))
	conn, err := grpc.NewClient("passthrough:///"+d.address, grpc.WithTransportCredentials(creds))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return d.handshakeRefused(ctx, conn)
}

func (d *demo) outsider(ctx context.Context) error {
	c, err := d.as(ctx, "outsider")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return d.handshakeRefused(ctx, c)
}

// handshakeRefused makes a call that must not get as far as being one.
func (d *demo) handshakeRefused(ctx context.Context, conn grpc.ClientConnInterface) error {
	rows, _, err := holdout()
	if err != nil {
		return err
	}
	d.sent("Predict %s, one row", demoModel)
	_, err = inferencev1.NewPredictionServiceClient(conn).Predict(ctx, &inferencev1.PredictRequest{Model: demoModel, Inputs: features(rows[:1])})
	if err == nil {
		return errors.New("the call was answered")
	}
	if reasonOf(err) != "" || identity.HandshakeCause(err) == identity.ErrServerRefused { //nolint:errorlint // it returns the sentinel itself
		return fmt.Errorf("refused, but not in the handshake by the server: %w", err)
	}
	d.got("no connection: the server ended the handshake")
	// Without a library that reads the alert, the connection may just be gone.
	if text := describeError(err); strings.Contains(text, "tls: ") {
		d.got("%s", indent(text))
	}
	return nil
}

func (d *demo) intern(ctx context.Context) error {
	rows, _, err := holdout()
	if err != nil {
		return err
	}
	d.sent("Predict %s, one row", demoModel)
	return d.refused(ctx, "intern", &inferencev1.PredictRequest{Model: demoModel, Inputs: features(rows[:1])}, interceptors.PolicyDenied)
}

func (d *demo) invalid(ctx context.Context) error {
	rows, _, err := holdout()
	if err != nil {
		return err
	}
	bad := append([]float32(nil), rows[0]...)
	bad[0], bad[3] = -17, float32(math.NaN())
	d.sent("Predict %s as the clinic, one row with mean_radius %v and mean_area %v", demoModel, bad[0], bad[3])
	err = d.refused(ctx, "clinic", &inferencev1.PredictRequest{Model: demoModel, Inputs: features([][]float32{bad})}, interceptors.ContractViolated)
	if err != nil {
		return err
	}
	d.sent("Predict as the ward's batch, with a model name that no schema allows, and no inputs")
	return d.refused(ctx, "ward-batch", &inferencev1.PredictRequest{Model: "../etc/passwd"}, interceptors.RequestInvalid)
}

func (d *demo) overQuota(ctx context.Context) error {
	rows, _, err := holdout()
	if err != nil {
		return err
	}
	for len(rows) < 400 {
		rows = append(rows, rows...)
	}
	c, err := d.as(ctx, "ward-batch")
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	request := &inferencev1.PredictRequest{Model: demoModel, Inputs: features(rows[:400])}
	// The role has 1,000 rows at once: a few requests of 400 are over it.
	for n := 1; n <= 10; n++ {
		d.sent("Predict %s as the ward's batch, 400 rows, request %d", demoModel, n)
		_, err := inferencev1.NewPredictionServiceClient(c).Predict(ctx, request)
		if err == nil {
			d.got("answered")
			continue
		}
		d.got("%s", indent(describeError(err)))
		if got := reasonOf(err); got != string(interceptors.QuotaRows) {
			return fmt.Errorf("refused with %q", got)
		}
		if wait, ok := retryAfter(err); !ok || wait <= 0 {
			return errors.New("the refusal does not say when to retry")
		}
		return nil
	}
	return errors.New("never refused")
}

// refused makes a call that must be refused for a reason.
func (d *demo) refused(ctx context.Context, workload string, r *inferencev1.PredictRequest, want interceptors.Reason) error {
	c, err := d.as(ctx, workload)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = inferencev1.NewPredictionServiceClient(c).Predict(ctx, r)
	if err == nil {
		return errors.New("the call was answered")
	}
	d.got("%s", indent(describeError(err)))
	if got := reasonOf(err); got != string(want) {
		return fmt.Errorf("refused with %q, not %q", got, want)
	}
	return nil
}

// indent puts the further lines of a text below its first.
func indent(s string) string { return strings.ReplaceAll(s, "\n", "\n     ") }
