package main_test

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
)

// batchSite is a server that can be killed and come back at its address, with an
// authority that stays.
type batchSite struct {
	t      *testing.T // that servers live as long as
	dir    string
	server *server
}

func newBatchSite(t *testing.T) *batchSite {
	t.Helper()
	dir := newSite(t, "")
	s := &batchSite{t: t, dir: dir, server: startServe(t, dir)}
	// From now on at this address.
	write(t, dir+"/sallyport.yaml", strings.Replace(config, "listen: 127.0.0.1:0", "listen: "+s.server.address, 1))
	return s
}

// crash kills the server and starts another in its place.
func (s *batchSite) crash() {
	s.server.kill()
	s.server = startServe(s.t, s.dir)
}

// batch is the command that runs the model over a table.
func (s *batchSite) batch(t *testing.T, input, output string, more ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sallyport", append([]string{
		"batch", breastCancer, "--input", input, "--output", output,
		"--server", s.server.address, "--socket", s.server.socket("clinic"),
	}, more...)...)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// ended demands one of the exit codes.
func ended(t *testing.T, err error, stderr fmt.Stringer, codes ...int) int {
	t.Helper()
	code := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(codes, code) {
		t.Fatalf("exit code %d, want one of %v; it wrote:\n%s", code, codes, stderr)
	}
	return code
}

// A run is killed, and its server too, over and over, at random places: what comes
// out is what an undisturbed run brings, row for row.
func TestBatchIsKilled(t *testing.T) {
	const rows, kills = 2400, 2
	s := newBatchSite(t)
	sample := newPatients(t)
	for _, format := range table.Formats {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			input := filepath.Join(dir, "rows."+format)
			sample.write(t, input, rows, true)
			options := []string{"--keep", "id", "--batch-rows", "50", "--max-errors", "-1", "--checkpoint-every", "20ms"}

			undisturbed := filepath.Join(dir, "undisturbed."+format)
			var stderr bytes.Buffer
			cmd := s.batch(t, input, undisturbed, options...)
			cmd.Stderr = &stderr
			ended(t, cmd.Run(), &stderr, 4)

			output := filepath.Join(dir, "killed."+format)
			stopped := 0
			for i := 0; ; i++ {
				stderr.Reset()
				cmd := s.batch(t, input, output, options...)
				cmd.Stderr = &stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				over := make(chan error, 1)
				go func() { over <- cmd.Wait() }()
				if i < kills && s.disturb(t, cmd, output, over, rows/(kills+2)) {
					stopped++
					continue
				}
				ended(t, <-over, &stderr, 4)
				break
			}
			if diff := cmp.Diff(readTable(t, undisturbed), readTable(t, output)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(readText(t, undisturbed+".errors.jsonl"), readText(t, output+".errors.jsonl")); diff != "" {
				t.Error(diff)
			}
			if _, err := os.Stat(output + ".unfinished"); !os.IsNotExist(err) {
				t.Errorf("something is left: %v", err)
			}
			t.Logf("killed %d times; %s", stopped, &stderr)
		})
	}
}

// disturb kills the server and then the run, once that has got on by so many rows
// and a little more. It returns false if the run ended before.
func (s *batchSite) disturb(t *testing.T, cmd *exec.Cmd, output string, over chan error, by int64) bool {
	t.Helper()
	begin := position(output)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for position(output) < begin+by {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("the run does not get on")
		}
		if _, err := os.Stat(output); err == nil {
			return false
		}
	}
	s.crash()
	<-time.After(rand.N(20 * time.Millisecond)) // somewhere in its work
	_ = cmd.Process.Kill()                      // it may have ended
	end := <-over
	if _, err := os.Stat(output); err == nil {
		over <- end // for whoever looks at how it ended
		return false
	}
	return true
}

// position is how many rows a run has behind it for good.
func position(output string) int64 {
	var c struct {
		Position struct{ Row int64 }
	}
	data, err := os.ReadFile(output + ".unfinished/checkpoint.json")
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return 0
	}
	return c.Position.Row
}

func readText(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// readTable is the rows of a table of answers, each as one text.
func readTable(t *testing.T, path string) []string {
	t.Helper()
	var rows []string
	switch format := table.FormatOf(path); format {
	case table.FormatCSV:
		all, err := csv.NewReader(strings.NewReader(readText(t, path))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range all[1:] {
			rows = append(rows, strings.Join(row, " "))
		}
	case table.FormatJSONL:
		lines := bufio.NewScanner(strings.NewReader(readText(t, path)))
		for lines.Scan() {
			if !json.Valid(lines.Bytes()) {
				t.Fatalf("no JSON: %s", lines.Bytes())
			}
			rows = append(rows, lines.Text())
		}
	default:
		for record := range recordsOf(t, path) {
			for i := range int(record.NumRows()) {
				var cells []string
				for _, c := range record.Columns() {
					cells = append(cells, c.ValueStr(i))
				}
				rows = append(rows, strings.Join(cells, " "))
			}
		}
	}
	return rows
}

// rowsEnv is how many rows TestBatchExactlyOnce runs, its server killed five times;
// by default few enough for every day, and twice.
const rowsEnv = "SALLYPORT_BATCH_ROWS"

// A run whose server is killed and restarted answers every row exactly once, with
// what ONNX Runtime alone answers, in bounded memory.
func TestBatchExactlyOnce(t *testing.T) {
	rows, kills := int64(20_000), int64(2)
	if env := os.Getenv(rowsEnv); env != "" {
		n, err := strconv.ParseInt(env, 10, 64)
		must(t, err)
		rows, kills = n, 5
	}
	s := newBatchSite(t)
	sample := newPatients(t)
	dir := t.TempDir()
	input, output := filepath.Join(dir, "rows.parquet"), filepath.Join(dir, "answers.parquet")
	sample.write(t, input, int(rows), false)
	var stderr bytes.Buffer
	cmd := s.batch(t, input, output, "--keep", "id", "--checkpoint-every", "100ms")
	cmd.Stderr = &stderr
	start := time.Now()
	must(t, cmd.Start())
	over := make(chan error, 1)
	go func() { over <- cmd.Wait() }()
	var serverPeak int64
	for kill := range kills {
		if err := within(10*time.Minute, func() error {
			select {
			case err := <-over:
				over <- err
				return nil
			default:
			}
			if position(output) < (kill+1)*rows/(kills+2) {
				return errors.New("the run does not get on")
			}
			return nil
		}); err != nil {
			t.Fatalf("%v; it wrote:\n%s", err, &stderr)
		}
		was := s.server
		s.crash()
		serverPeak = max(serverPeak, peak(was.cmd))
	}
	ended(t, <-over, &stderr, 0)
	took := time.Since(start)
	s.server.kill()
	serverPeak = max(serverPeak, peak(s.server.cmd))
	sample.check(t, output, rows)
	t.Logf("%d rows in %v, the server killed %d times; peak memory: %d MiB sallyport batch, %d MiB server; %s",
		rows, took.Round(time.Millisecond), kills, peak(cmd)>>20, serverPeak>>20, &stderr)
}
