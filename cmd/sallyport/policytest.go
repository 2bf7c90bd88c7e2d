package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport/sallyport/interceptors/policy"
)

func newPolicyTest() *cobra.Command {
	var path string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test FILE",
		Short: "Check that a policy decides as expected",
		Long: `Run the cases of a file: each says who wants to do what to which model, and
whether the policy must allow it. What is decided otherwise is explained.

The file names its policy, relative to its own directory. The exit code is 0 if
all cases pass, 1 if one does not, and 2 if a file is bad.`,
		Example: `  sallyport policy test policy_cases.yaml
  sallyport policy test policy_cases.yaml --policy next.yaml`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return testPolicy(cmd.OutOrStdout(), a[0], path, asJSON)
		},
	}
	cmd.Flags().StringVar(&path, "policy", "", "file with the policy, instead of the one that FILE names")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// policyTest is what came of the cases, in the JSON form of policy test.
type policyTest struct {
	Policy string              `json:"policy"`
	Passed int                 `json:"passed"`
	Failed int                 `json:"failed"`
	Cases  []policy.CaseResult `json:"cases"`
}

func testPolicy(w io.Writer, file, path string, asJSON bool) error {
	data, err := policy.ReadFile(file)
	if err != nil {
		return usage(err)
	}
	cases, err := policy.ParseCases(data, file)
	if err != nil {
		return usage(err)
	}
	if path == "" {
		path = cases.Policy()
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(file), path)
		}
	}
	_, index, err := loadPolicy(path)
	if err != nil {
		return err
	}
	t := policyTest{Policy: path, Cases: cases.Run(index, time.Now())}
	for _, c := range t.Cases {
		if c.Passed {
			t.Passed++
		} else {
			t.Failed++
		}
	}
	if asJSON {
		err = json.NewEncoder(w).Encode(t)
	} else {
		err = t.write(w)
	}
	if err == nil && t.Failed > 0 {
		return fmt.Errorf("%s decides %s otherwise than expected", path, count(t.Failed, "case"))
	}
	return err
}

func (t policyTest) write(w io.Writer) error {
	var b strings.Builder
	for _, c := range t.Cases {
		if c.Passed {
			fmt.Fprintf(&b, "ok    %s\n", printable(c.Name))
			continue
		}
		fmt.Fprintf(&b, "FAIL  %s\n      expected %s\n      decided  %s\n", printable(c.Name), c.Expected, c.Decided)
		for line := range strings.Lines(c.Explanation.String()) {
			fmt.Fprintf(&b, "        %s\n", printable(strings.TrimSuffix(line, "\n")))
		}
	}
	fmt.Fprintf(&b, "%s by %s: %d passed, %d failed\n", count(len(t.Cases), "case"), t.Policy, t.Passed, t.Failed)
	_, err := io.WriteString(w, b.String())
	return err
}
