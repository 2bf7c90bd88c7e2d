package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/batch"
	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

// batchFlags are the flags of batch beside those of every client.
type batchFlags struct {
	clientFlags
	input, output             string
	inputFormat, outputFormat string
	version                   int64
	outputs, keep, ignore     []string
	rowColumn, prefix         string
	errors                    string
	maxErrors                 int64
	batchRows                 int
	every, patience           time.Duration
	waitForBudget, overwrite  bool
}

func newBatch() *cobra.Command {
	var flags batchFlags
	cmd := &cobra.Command{
		Use:   "batch MODEL --input FILE|- --output FILE|-",
		Short: "Run a model on every row of a table and write a table of its answers",
		Long: `Run a model on every row of a table, of any size, and write a table of its
answers in the same order. The caller needs DESCRIBE and PREDICT_STREAM.

Tables are CSV (.csv), JSON lines (.jsonl, .ndjson), Parquet (.parquet), Arrow files
(.arrow, .feather) and Arrow streams (.arrows), by the file's name or by flags; the
two of text also from standard input and to standard output (-). Columns go to the
inputs of their name, in any order, as with predict; an input that is a list in the
model may be a column of lists. Types must fit: nothing is turned from text into
numbers but in CSV. A column that the model does not know must be kept, or ignored.

The answers have the row's number, the columns of --keep, and the model's outputs:
in Parquet and Arrow typed, a wide output as a list; in JSON lines an array; in CSV
a column for each element, NAME[0] and so on.

A run that is stopped, in whatever way, goes on when the same command is given
again: what was answered is in OUTPUT.unfinished, and OUTPUT is there once all rows
are. Each row is answered once in it. A run does not go on over another input, model
or form of output; --overwrite begins anew. What is piped cannot go on.

Rows that cannot be read or that the server refuses go to the file of --errors with
number, reason and text; the others of their batch are answered. If a quota asks to
wait, the run waits; if that takes more than 5 minutes, as a budget does, it stops,
says when it may go on, and goes on when started again.

Exit codes: 0 all rows answered, 4 some went to the file of errors, 5 stopped before
the end and goes on when started again, 1 failed, 2 wrong usage, 3 denied.`,
		Example: `  sallyport batch breast-cancer --input patients.parquet --output answers.parquet --keep patient_id
  sallyport batch digits --input rows.csv --output answers.jsonl --ignore '*' --errors refused.csv --max-errors -1
  zcat rows.csv.gz | sallyport batch digits --input - --input-format csv --output - --output-format csv > answers.csv`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: completeModel(&flags.clientFlags),
		RunE: func(cmd *cobra.Command, a []string) error {
			return runBatch(cmd, a[0], flags)
		},
	}
	flags.registerServer(cmd)
	f := cmd.Flags()
	f.StringVar(&flags.input, "input", "", "table with the rows, - for standard input")
	f.StringVar(&flags.output, "output", "", "table for the answers, - for standard output")
	choiceVar(cmd, &flags.inputFormat, "input-format", "format of the input, by the file's name unless given", table.Formats...)
	choiceVar(cmd, &flags.outputFormat, "output-format", "format of the output, by the file's name unless given", table.Formats...)
	f.Int64Var(&flags.version, "model-version", 0, "version of the model (default the model's own when the run begins)")
	f.StringSliceVar(&flags.outputs, "outputs", nil, "outputs to ask for (default all that have a row for each of the inputs)")
	f.StringSliceVar(&flags.keep, "keep", nil, "columns of the input that the output has too")
	f.StringSliceVar(&flags.ignore, "ignore", nil, "columns of the input to leave aside, beside label; * for all that the model does not know")
	f.StringVar(&flags.rowColumn, "row-column", "row", `column for the row's number, counted from 1; "" for none`)
	f.StringVar(&flags.prefix, "prefix", "", "put before the names of the model's outputs")
	f.StringVar(&flags.errors, "errors", "", "file for rows without an answer, JSON lines or .csv (default OUTPUT.errors.jsonl, or with standard output none: then the first ends the run)")
	f.Int64Var(&flags.maxErrors, "max-errors", 1000, "most rows without an answer before the run stops; -1 for any number")
	f.IntVar(&flags.batchRows, "batch-rows", 0, "most rows in a batch (default as many as the server takes, up to 4096)")
	f.DurationVar(&flags.every, "checkpoint-every", 2*time.Second, "how often what was answered is made durable")
	f.DurationVar(&flags.patience, "patience", 5*time.Minute, "how long to wait for a server that cannot be reached")
	f.BoolVar(&flags.waitForBudget, "wait-for-budget", false, "wait for a quota however long that takes")
	f.BoolVar(&flags.overwrite, "overwrite", false, "begin anew: replace the output, and an unfinished run for it")
	return cmd
}

func (f *batchFlags) check() error {
	switch {
	case f.input == "":
		return usage(errors.New("what to run on? give --input FILE, or --input - for standard input"))
	case f.output == "":
		return usage(errors.New("where to? give --output FILE, or --output - for standard output"))
	case f.version < 0:
		return usage(fmt.Errorf("--model-version %d: must not be negative", f.version))
	case f.batchRows < 0:
		return usage(fmt.Errorf("--batch-rows %d: must not be negative", f.batchRows))
	case f.every <= 0:
		return usage(fmt.Errorf("--checkpoint-every %v: must be more than 0", f.every))
	case f.patience < 0:
		return usage(fmt.Errorf("--patience %v: must not be negative", f.patience))
	}
	for _, of := range []struct{ flag, name, format string }{
		{"--input", f.input, f.inputFormat}, {"--output", f.output, f.outputFormat},
	} {
		format := table.Format(cmp.Or(of.format, string(table.FormatOf(of.name))))
		switch {
		case format == "":
			return usage(fmt.Errorf("%s %s: the name says no format; give %s-format, one of %s", of.flag, of.name, of.flag, strings.Join(table.Formats, ", ")))
		case of.name == batch.Pipe && !format.Text():
			return usage(fmt.Errorf("%s -: only csv and jsonl can be piped, not %s", of.flag, format))
		}
	}
	return nil
}

func runBatch(cmd *cobra.Command, name string, flags batchFlags) error {
	if err := flags.check(); err != nil {
		return err
	}
	// A file that cannot be read is told before anybody is called.
	if flags.input != batch.Pipe {
		if _, err := os.Stat(flags.input); err != nil {
			return fmt.Errorf("--input: %w", err)
		}
	}
	stdin, _ := cmd.InOrStdin().(*os.File)
	if flags.input == batch.Pipe && stdin == nil {
		return errors.New("standard input is no file")
	}
	if flags.errors == "" && flags.output != batch.Pipe {
		flags.errors = flags.output + ".errors.jsonl"
	}
	ctx := cmd.Context()
	c, err := dial(ctx, flags.clientFlags)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	bar := newProgress(cmd.ErrOrStderr())
	start := time.Now()
	done, err := batch.Run(ctx, batch.Config{
		Models: inferencev1.NewModelServiceClient(c), Stream: c.Stream,
		Model: name, Version: flags.version, Outputs: flags.outputs,
		Input: flags.input, Output: flags.output,
		InputFormat:  table.Format(cmp.Or(flags.inputFormat, string(table.FormatOf(flags.input)))),
		OutputFormat: table.Format(cmp.Or(flags.outputFormat, string(table.FormatOf(flags.output)))),
		Stdin:        stdin, Stdout: cmd.OutOrStdout(),
		Keep: flags.keep, Ignore: append(slices.Clip(flags.ignore), labelColumn), RowColumn: flags.rowColumn, Prefix: flags.prefix,
		Errors: flags.errors, MaxErrors: flags.maxErrors, BatchRows: flags.batchRows,
		Every: flags.every, Patience: flags.patience, WaitForBudget: flags.waitForBudget, Overwrite: flags.overwrite,
		Progress: bar.show,
	})
	bar.clear()
	if done != nil {
		summarize(cmd.ErrOrStderr(), done, time.Since(start))
	}
	return batchError(ctx, done, err, flags.errors)
}

// summarize says what was done.
func summarize(w io.Writer, s *batch.Summary, took time.Duration) {
	now := s.Answered + s.Refused - s.Before
	_, _ = fmt.Fprintf(w, "%s version %d, %s: %d rows answered, %d refused, in %v (%.0f rows/s)",
		printable(s.Model), s.Version, printable(s.Digest), s.Answered, s.Refused, took.Round(10*time.Millisecond), float64(now)/took.Seconds())
	if s.Before > 0 {
		_, _ = fmt.Fprintf(w, "; %d of them by earlier runs", s.Before)
	}
	_, _ = fmt.Fprintln(w)
}

// batchError gives what came of a run its text and its exit code.
func batchError(ctx context.Context, done *batch.Summary, err error, errorsFile string) error {
	var unfinished *batch.UnfinishedError
	switch {
	case errors.As(err, &unfinished):
		return &exitError{exitUnfinished, &batch.UnfinishedError{Cause: classify(unfinished.Cause), Again: unfinished.Again}}
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("stopped: %w", context.Cause(ctx))
	case err != nil:
		return classify(err)
	case done.Refused > 0:
		return &exitError{exitRefusedRows, fmt.Errorf("%s without an answer; %s says why", count(int(done.Refused), "row"), errorsFile)}
	}
	return nil
}
