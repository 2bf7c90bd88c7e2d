package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/interceptors"
)

// predictFlags are the flags of predict beside those of every client.
type predictFlags struct {
	clientFlags
	input   string
	format  string
	ignore  []string
	version int64
	outputs []string
	batch   int
	stream  bool
	output  string
	json    bool
}

func newPredict() *cobra.Command {
	flags := predictFlags{output: "table"}
	cmd := &cobra.Command{
		Use:   "predict MODEL --input FILE|-",
		Short: "Send rows to a model and show what it answers",
		Long: `Send rows to a model and show what it answers. The model's signature is asked
for first, so the caller needs DESCRIBE beside PREDICT or PREDICT_STREAM.

Input is CSV or JSON, at most 64 MiB:
  CSV   The first line names the columns, in any order, as the model's manifest
        names them; an input of one column goes by its own name. If the manifest
        names none, an only input takes the columns in their order. The column
        "label" and those of --ignore are left aside.
  JSON  {"inputs": {"features": [[1.5, 2], [3, 4]]}} or {"features": [[...]]}:
        nested arrays by input; or [{"radius": 1.5, "texture": 2}, ...] or one
        such object: a value for each column. "NaN", "Infinity" and "-Infinity"
        are numbers.

Rows that are more than the model takes at once go in several calls, or on one
stream with --stream; what exceeds a quota is then sent again when the server
says. Nothing is shown unless all rows were answered.

Output is a table, CSV, or one JSON object with model, version, digest, call_id
(of several calls: call_ids) and outputs as nested arrays by name. The model's
version and the call's id go to standard error except with JSON.`,
		Example: `  sallyport predict breast-cancer --input rows.csv --server localhost:7443 --socket ./dev/workloads/clinic.sock
  sallyport predict digits --input rows.csv --stream --batch 256 --output csv > answers.csv
  echo '{"text": "I cannot log in to the portal"}' | sallyport predict ticket-routing --input - --json`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: completeModel(&flags.clientFlags),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runPredict(cmd, a[0], flags)
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&flags.input, "input", "", "file with the rows, - for standard input")
	choiceVar(cmd, &flags.format, "format", "format of the input, by the file's name or content unless given", "csv", "json")
	cmd.Flags().StringSliceVar(&flags.ignore, "ignore", nil, "columns of the input to leave aside, beside label")
	cmd.Flags().Int64Var(&flags.version, "model-version", 0, "version of the model (default the model's own)")
	cmd.Flags().StringSliceVar(&flags.outputs, "outputs", nil, "outputs to ask for (default all)")
	cmd.Flags().IntVar(&flags.batch, "batch", 0, "most rows in one call or batch (default as many as the model takes)")
	cmd.Flags().BoolVar(&flags.stream, "stream", false, "send the rows over one stream")
	choiceVar(cmd, &flags.output, "output", "form of the answer", "table", "json", "csv")
	cmd.Flags().BoolVar(&flags.json, "json", false, "short for --output json")
	return cmd
}

func (f *predictFlags) check(cmd *cobra.Command) error {
	switch {
	case f.input == "":
		return usage(fmt.Errorf("what to send? give --input FILE, or --input - for standard input"))
	case f.batch < 0:
		return usage(fmt.Errorf("--batch %d: must not be negative", f.batch))
	case f.version < 0:
		return usage(fmt.Errorf("--model-version %d: must not be negative", f.version))
	case f.json && cmd.Flags().Changed("output") && f.output != "json":
		return usage(fmt.Errorf("--json and --output %s: give one of them", f.output))
	}
	return nil
}

func runPredict(cmd *cobra.Command, name string, flags predictFlags) (err error) {
	if err := flags.check(cmd); err != nil {
		return err
	}
	// A file that cannot be read is told before anybody is called.
	data, err := readInput(flags.input, cmd.InOrStdin())
	if err != nil {
		return err
	}
	ctx, cancel, err := flags.bound(cmd.Context())
	if err != nil {
		return err
	}
	defer cancel()
	c, err := dial(ctx, flags.clientFlags)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()

	described, err := inferencev1.NewModelServiceClient(c).GetModel(ctx, &inferencev1.GetModelRequest{Model: name, Version: flags.version})
	if err != nil {
		return classify(fmt.Errorf("signature of model %s: %w", printable(name), err))
	}
	m := described.GetModel()
	format := flags.format
	if format == "" {
		format = formatOf(flags.input, data)
	}
	d, err := parseInput(format, data, m.GetInputs(), flags.ignore)
	if err != nil {
		return fmt.Errorf("%s: %w", flags.input, err)
	}
	r := request{
		model:   name,
		version: m.GetVersion(),
		outputs: flags.outputs,
		data:    d,
		batch:   batchSize(d, flags.batch, m.GetMaxRows()),
	}
	var p *prediction
	if flags.stream {
		p, err = predictStream(ctx, c.Stream, r)
	} else {
		p, err = predictCalls(ctx, inferencev1.NewPredictionServiceClient(c), r)
	}
	if _, later := retryAfter(err); !later && reasonOf(err) == string(interceptors.QuotaRows) {
		return fmt.Errorf("%w\n  send fewer rows at once with --batch, or all over --stream", classify(err))
	}
	if err != nil {
		return classify(err)
	}
	return p.write(cmd.OutOrStdout(), cmd.ErrOrStderr(), flags)
}

func (p *prediction) write(out, info io.Writer, flags predictFlags) error {
	write := p.writeTable
	switch {
	case flags.json || flags.output == "json":
		return p.writeJSON(out)
	case flags.output == "csv":
		write = p.writeCSV
	}
	if err := write(out); err != nil {
		return err
	}
	calls := fmt.Sprintf("%d calls", len(p.callIDs))
	if len(p.callIDs) == 1 {
		calls = "call id " + printable(p.callIDs[0])
	}
	_, err := fmt.Fprintf(info, "%s version %d, %s, %s\n", printable(p.model), p.version, printable(p.digest), calls)
	return err
}
