package configfile_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	configv1 "github.com/sallyport/sallyport/gen/go/sallyport/config/v1"
	"github.com/sallyport/sallyport/proto/configfile"
)

func TestParseRefuses(t *testing.T) {
	const path = "dir/file.yaml"
	for name, tt := range map[string]struct{ yaml, want string }{
		"rule broken":                     {"description: x\nmax_rows: -1\n", path + ":2:11 max_rows: must be"},
		"unknown field":                   {"max_rowz: 1\n", path + `:1:1 unknown field "max_rowz"; is "max_rows" meant?`},
		"unknown inner field":             {"batching:\n  max_row: 64\n", path + `:2:3 unknown field "max_row"; is "max_rows" meant?`},
		"unknown field, near none":        {"port: 1\n", path + `:1:1 unknown field "port", expected one of [`},
		"wrong type":                      {"max_rows: many\n", path + ":1:11 "},
		"key twice":                       {"max_rows: 1\nmax_rows: 2\n", path + `: line 2: key "max_rows" comes twice`},
		"inner key twice":                 {"inputs:\n- name: x\n  max: 1\n  max: 9\n", path + `: line 4: key "max" comes twice`},
		"field by its JSON name":          {"max_rows: 1\nmaxRows: 2\n", path + `: line 2: "maxRows" is written "max_rows"`},
		"inner field by its JSON name":    {"inputs: [{name: x, allow_nan: false, allowNan: true}]\n", `: line 1: "allowNan" is written "allow_nan"`},
		"two documents":                   {"max_rows: 1\n---\nmax_rows: 2\n", path + ": line 2: more than one document"},
		"empty":                           {"", path + ": empty"},
		"only a comment":                  {"# later\n", path + ": empty"},
		"null":                            {"null\n", path + ": empty"},
		"no mapping":                      {"- 1\n", path + ":1:1 expected fields"},
		"alias":                           {"inputs:\n- &a {name: x}\n- *a\n", path + ":3:3 "},
		"bare carriage return":            {"max_rows: 1\rfoo: 2\n", path + `: line 1: line break "\r" is not supported`},
		"Unicode line separator":          {"max_rows: 1\n#\u2028foo: 2\n", path + `: line 2: line break "\u2028" is not supported`},
		"syntax":                          {"inputs: [\n", path + ": yaml: line 1: "},
		"key without a value, at the end": {"? 2", path + ": not readable as YAML"},
		"too large":                       {strings.Repeat("#", 65<<20), path + ": larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			err := configfile.Parse(path, []byte(tt.yaml), &configv1.ModelManifest{})
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want it to contain %q", err, tt.want)
			}
		})
	}
	if err := configfile.Parse(path, []byte("\n"), &configv1.Server{}); !errors.Is(err, configfile.ErrEmpty) {
		t.Errorf("got %v", err)
	}
}

// FuzzParse reads whatever bytes as each kind of file: there is a message or an
// error that names the file, and never a panic.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"description: x\nmax_rows: 5\noutputs: [label]\n",
		"listen: 127.0.0.1:1\nidentity: {trust_domains: [x]}\n",
		"inputs: [{name: x, columns: [{name: a, min: 0}]}]\r\n",
		"&a [*a]", "a: !!binary x", "? {}\n: 1\n", "max_rows: 1\rx: 2\ry: 3", "\xff\xfe", "%YAML 1.1\n---\n{}\n...\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		for _, err := range []error{
			configfile.Parse("file.yaml", data, &configv1.Server{}),
			configfile.Parse("file.yaml", data, &configv1.ModelManifest{}),
		} {
			if err != nil && !strings.Contains(err.Error(), "file.yaml") {
				t.Errorf("%q does not name the file", err)
			}
		}
		if !bytes.Equal(before, data) {
			t.Error("the data was changed")
		}
	})
}
