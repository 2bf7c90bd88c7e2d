package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// WitnessConfig says where checkpoints are sent: to a directory, a command, or
// both.
type WitnessConfig struct {
	// Directory gets a file for each checkpoint, named after the number of records
	// it covers and the beginning of its root. A file that is there is never
	// changed.
	Directory string
	// Command is a program with its arguments. It gets the checkpoint on standard
	// input, and has to end with exit code 0.
	Command []string
	// Timeout bounds each run of the command; default 10 s.
	Timeout time.Duration
	// Interval is how often a checkpoint is sent at the most: default a minute.
	Interval time.Duration
	// Logger hears when sending begins to fail and works again; default: nobody.
	Logger *slog.Logger
}

// Witness sends checkpoints to where the owner of the log's machine cannot take
// them back. What cannot be sent is tried again after the interval, or a newer one in
// its place.
type Witness struct {
	cfg  WitnessConfig
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	mu    sync.Mutex // guards what follows
	next  []byte     // not sent yet; nil if there is none
	stats WitnessStats
}

// WitnessStats is what a witness did.
type WitnessStats struct {
	// Sent and Failed count checkpoints.
	Sent, Failed uint64
	// Err is why the last one could not be sent; nil if it could.
	Err error
}

// NewWitness starts a witness. A directory that cannot be used, or a program that
// is not there, is an error. Close it to end its goroutine.
func NewWitness(cfg WitnessConfig) (*Witness, error) {
	if cfg.Directory == "" && len(cfg.Command) == 0 {
		return nil, errors.New("witness: neither a directory nor a command is given")
	}
	if cfg.Directory != "" {
		if info, err := os.Stat(cfg.Directory); err != nil {
			return nil, fmt.Errorf("witness: %w", err)
		} else if !info.IsDir() {
			return nil, fmt.Errorf("witness: %s is not a directory", cfg.Directory)
		}
	}
	if len(cfg.Command) > 0 {
		if _, err := exec.LookPath(cfg.Command[0]); err != nil {
			return nil, fmt.Errorf("witness: command: %w", err)
		}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Interval == 0 {
		cfg.Interval = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Witness{cfg: cfg, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w, nil
}

// Checkpointed takes a checkpoint to send, in place of one that was not sent yet. It
// does not block; it is for Config.Checkpointed.
func (w *Witness) Checkpointed(c Checkpoint) {
	w.mu.Lock()
	w.next = c.Note
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Stats returns a snapshot.
func (w *Witness) Stats() WitnessStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}

// Close sends the last checkpoint, whatever the interval says, and ends the
// witness. The error is that it could not be sent. A directory that hangs is not
// waited for any longer than two runs of the command. Call it once, after the log
// was closed.
func (w *Witness) Close() error {
	close(w.quit)
	timer := time.NewTimer(2 * (w.cfg.Timeout + waitDelay))
	defer timer.Stop()
	select {
	case <-w.done:
		return w.Stats().Err
	case <-timer.C:
		return errors.New("witness: sending the last checkpoint has not ended")
	}
}

func (w *Witness) run() {
	defer close(w.done)
	for {
		select {
		case <-w.wake:
			w.send()
		case <-w.quit:
			w.send()
			return
		}
		rest := time.NewTimer(w.cfg.Interval)
		select {
		case <-rest.C:
		case <-w.quit:
		}
		rest.Stop()
	}
}

// send sends the next checkpoint, if there is one.
func (w *Witness) send() {
	w.mu.Lock()
	note := w.next
	w.next = nil
	before := w.stats.Err
	w.mu.Unlock()
	if note == nil {
		return
	}
	err := w.deliver(note)
	w.mu.Lock()
	w.stats.Err = err
	if err == nil {
		w.stats.Sent++
	} else {
		w.stats.Failed++
		if w.next == nil { // nothing newer covers it yet
			w.next = note
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
	w.mu.Unlock()
	switch {
	case err != nil && before == nil:
		w.cfg.Logger.Error("audit witness: a checkpoint was not sent", slog.String("error", err.Error()))
	case err == nil && before != nil:
		w.cfg.Logger.Info("audit witness: checkpoints are sent again")
	}
}

func (w *Witness) deliver(note []byte) error {
	c, err := ParseCheckpoint(note, nil)
	if err != nil {
		return err
	}
	if w.cfg.Directory != "" {
		err = keep(filepath.Join(w.cfg.Directory, fmt.Sprintf("%020d-%x%s", c.Size, c.Root[:4], witnessedSuffix)), note)
	}
	if len(w.cfg.Command) > 0 {
		err = errors.Join(err, w.execute(note))
	}
	return err
}

// witnessedSuffix ends the names of the files that a witness's directory has.
const witnessedSuffix = ".checkpoint"

// keep writes a file that is there whole or not at all, and never changed.
func keep(path string, content []byte) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".checkpoint-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o444)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		if err = os.Link(f.Name(), path); errors.Is(err, os.ErrExist) {
			err = nil
		}
	}
	return errors.Join(err, os.Remove(f.Name()))
}

// waitDelay is for what a program leaves behind that ends or is ended.
const waitDelay = time.Second

// execute runs the command. What it writes is part of the error if it fails.
func (w *Witness) execute(note []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.cfg.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.cfg.Command[0], w.cfg.Command[1:]...) //nolint:gosec // the operator's own words
	cmd.Stdin = bytes.NewReader(note)
	cmd.WaitDelay = waitDelay
	var said beginning
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("no end within %v", w.cfg.Timeout)
	}
	if err != nil {
		return fmt.Errorf("command %s: %w: %s", w.cfg.Command[0], err, strings.TrimSpace(string(said)))
	}
	return nil
}

// beginning keeps the beginning of what is written to it.
type beginning []byte

func (b *beginning) Write(p []byte) (int, error) {
	const most = 512
	*b = append(*b, p[:min(len(p), most-len(*b))]...)
	return len(p), nil
}

// ErrNoCheckpoint says that a witness's directory has no checkpoint yet.
var ErrNoCheckpoint = errors.New("no checkpoint is there")

// Witnessed reads the checkpoints that a witness's directory has, or the one in a
// file.
func Witnessed(path string) ([][]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		data, err := os.ReadFile(path) //nolint:gosec // the operator's own file
		if err != nil {
			return nil, err
		}
		notes, rest := splitNotes(data)
		if len(notes) == 0 || len(rest) > 0 {
			return nil, fmt.Errorf("%s: not a checkpoint, or one that is cut off", path)
		}
		return notes, nil
	}
	files, err := filepath.Glob(filepath.Join(path, "*"+witnessedSuffix))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: %w (*%s)", path, ErrNoCheckpoint, witnessedSuffix)
	}
	var all [][]byte
	for _, file := range files {
		data, err := os.ReadFile(file) //nolint:gosec // in the operator's own directory
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}
