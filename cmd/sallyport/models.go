package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/tensor"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
)

func newModels() *cobra.Command {
	var flags clientFlags
	var version int64
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "models [NAME]",
		Short: "List the models that the caller may see, or describe one",
		Long: `List the models that the caller may see, or describe one. A model that the
policy does not let the caller DESCRIBE is refused like one that does not exist.

With --json the list is {"models": [...]}, and a single model is one object, in
Protobuf's JSON form of sallyport.inference.v1.Model.`,
		Example: `  sallyport models --server localhost:7443 --socket ./dev/workloads/clinic.sock
  sallyport models breast-cancer --model-version 1 --json`,
		Args:              args(cobra.MaximumNArgs(1)),
		ValidArgsFunction: completeModel(&flags),
		RunE: func(cmd *cobra.Command, a []string) error {
			if version < 0 || version > 0 && len(a) == 0 {
				return usage(fmt.Errorf("--model-version %d: give a model's NAME and one of its versions", version))
			}
			ctx, cancel, err := flags.bound(cmd.Context())
			if err != nil {
				return err
			}
			defer cancel()
			c, err := dial(ctx, flags)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			service := inferencev1.NewModelServiceClient(c)
			if len(a) == 1 {
				answer, err := service.GetModel(ctx, &inferencev1.GetModelRequest{Model: a[0], Version: version})
				if err != nil {
					return classify(fmt.Errorf("model %s: %w", printable(a[0]), err))
				}
				if asJSON {
					return writeMessage(cmd.OutOrStdout(), answer.GetModel())
				}
				return writeModel(cmd.OutOrStdout(), answer.GetModel())
			}
			models, err := listModels(ctx, service)
			if err != nil {
				return classify(err)
			}
			if asJSON {
				return writeMessage(cmd.OutOrStdout(), &inferencev1.ListModelsResponse{Models: models})
			}
			return writeModels(cmd.OutOrStdout(), models)
		},
	}
	flags.register(cmd)
	cmd.Flags().Int64Var(&version, "model-version", 0, "version to describe (default the model's own)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// listModels gets all pages.
func listModels(ctx context.Context, service inferencev1.ModelServiceClient) ([]*inferencev1.Model, error) {
	var models []*inferencev1.Model
	for token := ""; ; {
		page, err := service.ListModels(ctx, &inferencev1.ListModelsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		models = append(models, page.GetModels()...)
		if token = page.GetNextPageToken(); token == "" {
			return models, nil
		}
	}
}

// completeModel has the shell complete the name of a model by asking the server,
// if flags and environment say which and it answers soon.
func completeModel(flags *clientFlags) cobra.CompletionFunc {
	return func(cmd *cobra.Command, a []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(a) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		c, err := dial(ctx, *flags)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer func() { _ = c.Close() }()
		models, err := listModels(ctx, inferencev1.NewModelServiceClient(c))
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, m := range models {
			names = append(names, m.GetName())
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func writeModels(w io.Writer, models []*inferencev1.Model) error {
	if len(models) == 0 {
		_, err := fmt.Fprintln(w, "no models that this caller may see")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tVERSION\tVERSIONS\tINPUTS\tOUTPUTS\tDIGEST") //nolint:errcheck // Flush returns it
	for _, m := range models {
		fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\t%s\n", //nolint:errcheck // Flush returns it
			printable(m.GetName()), m.GetVersion(), listVersions(m.GetVersions()),
			describeSpecs(m.GetInputs()), describeSpecs(m.GetOutputs()), shortDigest(m.GetDigest()))
	}
	return tw.Flush()
}

func writeModel(w io.Writer, m *inferencev1.Model) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(tw, "%s\t%s\n", name, value) } //nolint:errcheck // Flush returns it
	line("name", printable(m.GetName()))
	if m.GetDescription() != "" {
		line("description", printable(m.GetDescription()))
	}
	line("version", fmt.Sprintf("%d of %s", m.GetVersion(), listVersions(m.GetVersions())))
	line("digest", printable(m.GetDigest()))
	if m.GetMaxRows() > 0 {
		line("most rows", fmt.Sprint(m.GetMaxRows()))
	}
	for _, in := range m.GetInputs() {
		line("input", describeSpec(in))
		if len(in.GetColumns()) > 0 {
			line("  columns", printable(strings.Join(in.GetColumns(), ", ")))
		}
	}
	for _, out := range m.GetOutputs() {
		line("output", describeSpec(out))
	}
	return tw.Flush()
}

func describeSpecs(specs []*inferencev1.TensorSpec) string {
	texts := make([]string, len(specs))
	for i, s := range specs {
		texts[i] = describeSpec(s)
	}
	return strings.Join(texts, ", ")
}

func describeSpec(s *inferencev1.TensorSpec) string {
	return fmt.Sprintf("%s %s%s", printable(s.GetName()), tensor.TypeName(s.GetDataType()), strings.ReplaceAll(tensor.FormatShape(s.GetShape()), " ", ""))
}

func listVersions(versions []int64) string {
	texts := make([]string, len(versions))
	for i, v := range slices.Sorted(slices.Values(versions)) {
		texts[i] = fmt.Sprint(v)
	}
	return strings.Join(texts, ",")
}

// shortDigest is enough of a digest to tell versions apart.
func shortDigest(digest string) string {
	const length = len("sha256:") + 12
	return printable(digest[:min(len(digest), length)])
}

// writeMessage writes a message as JSON on one line, the same bytes every time.
func writeMessage(w io.Writer, m proto.Message) error {
	encoded, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	// protojson varies its white space on purpose.
	var b bytes.Buffer
	if err := json.Compact(&b, encoded); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err = w.Write(b.Bytes())
	return err
}
