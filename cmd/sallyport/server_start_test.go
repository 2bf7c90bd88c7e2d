package main_test

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// events are the details of the events on record.
func (s *server) events(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, r := range s.records(t) {
		b.WriteString(r.GetDetail() + "\n")
	}
	return b.String()
}

// A start says what was found, and what will keep callers out.
func TestStartIsAnnounced(t *testing.T) {
	dir := newConfig(t, "")
	startAuthority(t, dir, 0)
	write(t, dir+"/policy.yaml", generous+`    user: {issuer: "https://nowhere.test"}`+"\n")
	write(t, dir+"/sallyport.yaml", strings.Replace(config, "[sallyport.test]", "[elsewhere.test]", 1))
	s := startServe(t, dir)
	s.says(t, `level=WARN msg="audit log: a new one was begun"`)
	s.says(t, `level=WARN msg="no bundle: .* trust domain elsewhere.test can connect"`)
	s.says(t, `level=WARN msg="the server's own trust domain sallyport.test is not among`)
	s.says(t, `level=WARN msg="a binding asks for users of an issuer .*" policy=enforced issuer=https://nowhere.test`)
	if n := strings.Count(s.stderr.String(), "digits"); n != 1 {
		t.Errorf("a model is named %d times", n)
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`(?m)^audit log begun$`, `(?m)^server started, sallyport .*\(commit .*; go1\..*\)$`, `(?m)^policy generation 1 in force, sha256:[0-9a-f]{64}$`,
	} {
		if !regexp.MustCompile(want).MatchString(s.events(t)) {
			t.Errorf("no event %q:\n%s", want, s.events(t))
		}
	}

	// A crash leaves half a record.
	f, err := os.OpenFile(dir+"/audit/00000000000000000001.log", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write([]byte{0xff})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	s = startServe(t, dir)
	if n := strings.Count(s.stderr.String(), "torn tail"); n != 1 {
		t.Errorf("the torn tail is told of %d times", n)
	}
	if strings.Contains(s.stderr.String(), "new one was begun") {
		t.Error("it took the log for a new one")
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(s.events(t), "a torn tail of 1 bytes was cut off 00000000000000000001.log") {
		t.Errorf("the torn tail is not on record:\n%s", s.events(t))
	}
}

// A start that waits for its identity can be stopped.
func TestStartIsInterrupted(t *testing.T) {
	dir := newConfig(t, "")
	cmd := exec.Command("sallyport", "serve", "--config", dir+"/sallyport.yaml")
	cmd.Env = append(os.Environ(), onnx.LibraryEnv+"="+onnxtest.Library(t))
	said, ended := newTranscript(), make(chan struct{})
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // ProcessState has it
		close(ended)
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-ended
	}()
	if _, err := said.await(regexp.MustCompile("does not answer"), ended); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ended
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(said.String(), "\nsallyport: stopped while starting: ") {
		t.Errorf("exit code %d, it said %q", code, said)
	}
}

// Nothing that is read at start can be waited for.
func TestPipesAreNotRead(t *testing.T) {
	for _, file := range []string{"sallyport.yaml", "policy.yaml", "audit.key"} {
		t.Run(file, func(t *testing.T) {
			dir := newConfig(t, "")
			if err := errors.Join(os.Remove(dir+"/"+file), syscall.Mkfifo(dir+"/"+file, 0o600)); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "sallyport", "serve", "--config", dir+"/sallyport.yaml")
			cmd.Env = append(os.Environ(), onnx.LibraryEnv+"="+onnxtest.Library(t))
			said, _ := cmd.CombinedOutput() // ProcessState has the error
			if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(said), dir+"/"+file+": not a regular file") {
				t.Errorf("exit code %d, it said %q", code, said)
			}
		})
	}
}
