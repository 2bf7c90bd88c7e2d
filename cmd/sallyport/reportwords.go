package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// shortCaller is how tables write a SPIFFE ID.
func shortCaller(id string) string {
	return cmp.Or(strings.TrimPrefix(id, "spiffe://"), "(no identity proved)")
}

// shorten is s with its middle left out if it is longer than n.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	runes := []rune(s)
	head := (n - 1) / 2
	return string(runes[:head]) + "…" + string(runes[len(runes)-(n-1-head):])
}

// shortCount is a number in at most seven digits.
func shortCount(n uint64) string {
	switch {
	case n >= 10_000_000_000:
		return fmt.Sprintf("%.1fG", float64(n)/1e9)
	case n >= 10_000_000:
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	}
	return strconv.FormatUint(n, 10)
}

func shortBytes(n uint64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%dB", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for value >= 1000 && unit < 4 {
		value /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f%ciB", value, "KMGTP"[unit])
}

// shortSeconds is a duration with about three digits; a dash if there is none.
func shortSeconds(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	if d <= 0 {
		return "-"
	}
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}

// shortTime is a time to the minute, in UTC.
func shortTime(t time.Time) string { return t.UTC().Format("06-01-02 15:04") }

// showCommand is the command that shows the records of dir that the arguments
// select, in a form that a shell takes.
func showCommand(dir string, arguments []string) string {
	words := []string{"sallyport", "audit", "show", shellWord(dir)}
	for _, a := range arguments {
		words = append(words, shellWord(a))
	}
	return strings.Join(words, " ")
}

// shellWord is s as one word for a shell, and printable.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,=+@%"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	if printable(s) == s {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '\'' || c == '\\' {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}
