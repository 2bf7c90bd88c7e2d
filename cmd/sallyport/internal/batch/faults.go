package batch

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/table"
)

// faults is the file of the rows that have no answer. It is made when there is
// the first.
type faults struct {
	path  string
	file  *growing // nil until then
	asCSV bool
}

// openFaults opens the file if it has durable bytes. ours tells that one which is
// there without any may go.
func openFaults(path string, durable int64, ours bool) (*faults, error) {
	f := &faults{path: path, asCSV: table.FormatOf(path) == table.FormatCSV}
	if path == "" {
		return f, nil
	}
	if durable > 0 {
		var err error
		f.file, err = grow(path, durable)
		return f, err
	}
	if exists(path) {
		if !ours {
			return nil, fmt.Errorf("%s is there already; --overwrite replaces it", path)
		}
		return f, os.Remove(path)
	}
	return f, nil
}

// write adds a row.
func (f *faults) write(fault table.Fault) error {
	if f.path == "" {
		return fmt.Errorf("row %d: %s: %s; with --errors FILE such rows go there and the run goes on", fault.Row, fault.Reason, fault.Text)
	}
	if f.file == nil {
		var err error
		if f.file, err = grow(f.path, 0); err != nil {
			return err
		}
		if f.asCSV {
			if _, err := io.WriteString(f.file, "row,reason,text\n"); err != nil {
				return err
			}
		}
	}
	if f.asCSV {
		w := csv.NewWriter(f.file)
		_ = w.Write([]string{strconv.FormatInt(fault.Row, 10), fault.Reason, fault.Text}) // Error returns it
		w.Flush()
		return w.Error()
	}
	line, err := json.Marshal(struct {
		Row    int64  `json:"row"`
		Reason string `json:"reason"`
		Text   string `json:"text"`
	}{fault.Row, fault.Reason, fault.Text})
	if err != nil {
		return err
	}
	_, err = f.file.Write(append(line, '\n'))
	return err
}

func (f *faults) sync() (int64, error) {
	if f.file == nil {
		return 0, nil
	}
	return f.file.sync()
}

// close makes the file durable. It stays, if there is one.
func (f *faults) close() error {
	_, err := f.sync()
	return err
}

func (f *faults) abandon() {
	if f.file != nil {
		f.file.abandon()
	}
}
