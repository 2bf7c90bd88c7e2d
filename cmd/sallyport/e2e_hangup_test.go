package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport/server/onnx"
	"github.com/sallyport/sallyport/server/onnx/onnxtest"
)

// SIGHUP reads the policy at once. It is a link to a file in another directory,
// where nobody watches for changes.
func TestHangup(t *testing.T) {
	dir := newSite(t, "")
	write(t, dir+"/elsewhere/policy.yaml", generous)
	if err := errors.Join(os.Remove(dir+"/policy.yaml"), os.Symlink("elsewhere/policy.yaml", dir+"/policy.yaml")); err != nil {
		t.Fatal(err)
	}
	s := startServe(t, dir)
	intern := s.as(t, "intern")
	hangup := func(policy string, generation, stale float64) {
		t.Helper()
		write(t, dir+"/elsewhere/policy.yaml", policy)
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		// The policy would be looked at after ten seconds by itself.
		err := within(9*time.Second, func() error {
			m := s.metrics(t)
			if g, st := m.value("sallyport_policy_generation"), m.value("sallyport_policy_stale"); g != generation || st != stale {
				return fmt.Errorf("generation %v, stale %v; want %v, %v", g, st, generation, stale)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := intern.predict(t.Context(), breastCancer); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	granted := strings.Replace(generous, "clinic/*", "*", 1)
	hangup(granted, 2, 0)
	if _, err := intern.predict(t.Context(), breastCancer); err != nil {
		t.Error(err)
	}
	hangup(granted[:len(granted)-3], 2, 1)
	if _, err := intern.predict(t.Context(), breastCancer); err != nil {
		t.Error(err)
	}
	hangup(granted, 2, 0)
	hangup(generous, 3, 0)
	if _, err := intern.predict(t.Context(), breastCancer); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
}

// A server that starts, or one for development, does not end of it either.
func TestHangupEndsNothing(t *testing.T) {
	t.Run("dev", func(t *testing.T) {
		s := startDev(t, shortDir(t))
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if _, err := s.as(t, "clinic").predict(t.Context(), breastCancer); err != nil {
			t.Error(err)
		}
		if err := s.stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	t.Run("serve that waits for its identity", func(t *testing.T) {
		dir := newConfig(t, "")
		cmd := exec.Command("sallyport", "serve", "--config", dir+"/sallyport.yaml")
		cmd.Env = append(os.Environ(), onnx.LibraryEnv+"="+onnxtest.Library(t))
		said, ended := newTranscript(), make(chan struct{})
		cmd.Stderr = said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		defer func() {
			_ = cmd.Process.Kill()
			<-ended
		}()
		if _, err := said.await(regexp.MustCompile("does not answer"), ended); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		startAuthority(t, dir, time.Hour)
		if _, err := said.await(serving, ended); err != nil {
			t.Error(err)
		}
	})
}
