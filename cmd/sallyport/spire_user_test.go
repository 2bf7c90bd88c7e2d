//go:build spire && linux

package main_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sallyport/sallyport/interceptors"
)

// jwtLife is the life of the JWT-SVIDs, in seconds.
const jwtLife = "20"

// user: the portal may call on behalf of a doctor, whose JWT-SVID proves that,
// and not by itself.
func (w *spireWorld) user(t *testing.T) {
	w.register(t, w.home, "portal", w.binaries.copy(t, w.binaries.client, "portal"))
	w.register(t, w.home, "doctor", w.binaries.copy(t, w.binaries.client, "doctor"), "-jwtSVIDTTL", jwtLife)
	w.register(t, w.home, "visitor", w.binaries.copy(t, w.binaries.client, "visitor"), "-jwtSVIDTTL", jwtLife)

	portal := startWorkload(t, filepath.Join(w.dir, "portal"), w.flags(w.home, "call")...)
	portal.await(t, patience, "SVID", kind("identity", time.Time{}))
	ask := func(token string) event {
		t.Helper()
		asked := time.Now()
		portal.tell(t, token)
		return portal.await(t, patience, "answer", kind("call", asked))
	}
	call := func(what, token string, code codes.Code, reason interceptors.Reason) {
		t.Helper()
		e := ask(token)
		w.say("portal, %s: %s %s", what, e.Code, e.Reason)
		if e.Code != code.String() || e.Reason != string(reason) {
			t.Errorf("a call %s: %s %s, want %v %s: %s", what, e.Code, e.Reason, code, reason, e.Detail)
		}
	}
	call("for itself", "", codes.PermissionDenied, interceptors.PolicyDenied)
	doctor := w.token(t, "doctor", "sallyport")
	call("with the doctor's JWT-SVID", doctor.Token, codes.OK, "")
	call("with one for another audience", w.token(t, "doctor", "elsewhere").Token, codes.Unauthenticated, interceptors.TokenInvalid)
	call("with the visitor's", w.token(t, "visitor", "sallyport").Token, codes.PermissionDenied, interceptors.PolicyDenied)

	time.Sleep(time.Until(doctor.NotAfter.Add(100 * time.Millisecond)))
	call("with the doctor's first, "+time.Since(doctor.NotAfter).Round(10*time.Millisecond).String()+" after its end",
		doctor.Token, codes.Unauthenticated, interceptors.TokenExpired)

	doctor = w.token(t, "doctor", "sallyport")
	call("with the doctor's next", doctor.Token, codes.OK, "")
	old := w.activateAuthority(t, "jwt", w.prepareAuthority(t, "jwt"))
	w.ctl(t, w.home, "localauthority", "jwt", "taint", "-authorityID", old)
	time.Sleep(3 * time.Second) // until the agent knows, or it would go on to hand out its JWT-SVIDs
	w.ctl(t, w.home, "localauthority", "jwt", "revoke", "-authorityID", old)
	revoked := time.Now()
	eventually(t, func() error {
		if e := ask(doctor.Token); e.Reason != string(interceptors.TokenInvalid) {
			return fmt.Errorf("a call with a token whose key is revoked: %s %s", e.Code, e.Reason)
		}
		return nil
	})
	w.say("portal, with a JWT-SVID whose key was revoked: refused from %v after the revocation, %v before its own end",
		since(revoked), time.Until(doctor.NotAfter).Round(time.Second))
	eventually(t, func() error { // the agent may still hand out the old one
		if e := ask(w.token(t, "doctor", "sallyport").Token); e.Code != codes.OK.String() {
			return fmt.Errorf("a call with a new token: %s %s", e.Code, e.Reason)
		}
		return nil
	})
	w.say("portal, with a new one of the doctor's: OK, %v after the revocation", since(revoked))
}

// token is a JWT-SVID of the workload. It goes into no transcript.
func (w *spireWorld) token(t *testing.T, name, audience string) event {
	t.Helper()
	var got event
	eventually(t, func() error { // the entry may not have reached the agent
		fetch := &workload{events: &events{grown: make(chan struct{})}}
		fetch.program = &program{
			cmd:    exec.Command(filepath.Join(w.dir, name), "-audience", audience, "-socket", w.home.socket(), "token"),
			stdout: newTranscript(), stderr: newTranscript(), ended: make(chan struct{}),
		}
		fetch.cmd.Stdout, fetch.cmd.Stderr = fetch.events, fetch.stderr
		fetch.start(t)
		got = fetch.await(t, patience, "JWT-SVID", func(e event) bool { return e.Kind == "token" || e.Kind == "failed" })
		if got.Kind != "token" {
			return errors.New(got.Detail)
		}
		return nil
	})
	return got
}
