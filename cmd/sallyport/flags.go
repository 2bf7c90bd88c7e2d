package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
)

// choice is the value of a flag that takes one of a few words.
type choice struct {
	value   *string
	allowed []string
}

func (c choice) String() string {
	if c.value == nil {
		return ""
	}
	return *c.value
}

func (choice) Type() string { return "word" }

func (c choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("must be one of %s", strings.Join(c.allowed, ", "))
	}
	*c.value = s
	return nil
}

// choiceVar defines a flag that takes one of the allowed words, which the shell
// completes. It is what value is until it is given.
func choiceVar(cmd *cobra.Command, value *string, name, help string, allowed ...string) {
	cmd.Flags().Var(choice{value, allowed}, name, help+": "+strings.Join(allowed, ", "))
	completeWords(cmd, name, allowed...)
}

// completeWords has the shell offer words for a flag that takes others too.
func completeWords(cmd *cobra.Command, name string, words ...string) {
	err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag does not exist: a fault in this program
	}
}

// printable is s in a form that cannot steer a terminal or break a line. What
// callers and servers sent goes through it before a person sees it.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0 {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}
