//go:build spire && linux

package main_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/interceptors"
)

// moment is how soon what ends a connection must have ended it.
const moment = time.Second

// path: SPIRE and Sallyport start, who has a role is answered, who has none is
// not, and whom SPIRE does not know gets no identity.
func (w *spireWorld) path(t *testing.T) {
	began := time.Now()
	w.home = startDomain(t, w.dir, "sallyport.test")
	w.partner = startDomain(t, w.dir, "partner.test")
	w.say("two SPIRE servers and agents run, after %v", since(began))
	w.home.trust(t, w.partner)
	w.partner.trust(t, w.home)
	w.say("each has the other's bundle")

	life := strconv.Itoa(shortLife)
	sallyport := w.binaries.copy(t, w.binaries.cli, "sallyportd")
	w.clinic = w.binaries.copy(t, w.binaries.cli, "clinic")
	w.labdesk = w.binaries.copy(t, w.binaries.cli, "labdesk")
	intern := w.binaries.copy(t, w.binaries.cli, "intern")
	stranger := w.binaries.copy(t, w.binaries.cli, "stranger")
	w.register(t, w.home, "sallyport", sallyport, "-x509SVIDTTL", life, "-federatesWith", "spiffe://partner.test", "-dns", "localhost")
	w.register(t, w.home, "clinic/desk", w.clinic, "-x509SVIDTTL", life)
	w.register(t, w.home, "clinic/triage", w.binaries.copy(t, w.binaries.client, "triage"), "-x509SVIDTTL", life)
	w.register(t, w.home, "clinic/ward", w.binaries.copy(t, w.binaries.client, "ward"), "-x509SVIDTTL", life)
	w.register(t, w.home, "intern", intern, "-x509SVIDTTL", life)
	w.register(t, w.partner, "lab/desk", w.labdesk, "-federatesWith", "spiffe://sallyport.test")
	w.register(t, w.partner, "lab/results", w.binaries.copy(t, w.binaries.client, "results"), "-federatesWith", "spiffe://sallyport.test")

	began = time.Now()
	w.startSallyport(t, sallyport)
	first := w.identities()[0]
	w.say("sallyport serves, %v after its start; its first SVID ends in %v, %d bundles", since(began),
		time.Until(first.expires).Round(time.Second), first.bundles)
	w.ready(t, 200, `^identity: ok.*`)

	w.expect(t, w.clinic, w.home, 0, `breast-cancer version \d+`)
	w.expect(t, w.labdesk, w.partner, 0, `breast-cancer version \d+`)
	w.expect(t, intern, w.home, 3, `PERMISSION_DENIED \(POLICY_DENIED\): .*`)
	w.expect(t, stranger, w.home, 1, `it answers, but issues no identity to this process`)
}

// entryDeleted: who is no longer registered is out at the latest when its SVID
// ends.
func (w *spireWorld) entryDeleted(t *testing.T) {
	ward := startWorkload(t, filepath.Join(w.dir, "ward"), w.flags(w.home, "hold")...)
	first := ward.await(t, patience, "SVID", kind("identity", time.Time{}))
	ward.await(t, patience, "stream", kind("stream opened", time.Time{}))
	ward.await(t, patience, "answered call", func(e event) bool { return e.Kind == "call" && e.Code == "OK" })
	w.say("ward: a stream is open; SVID %s… until %s", first.Serial[:8], first.NotAfter.Local().Format(time.TimeOnly))

	deleted := time.Now()
	w.ctl(t, w.home, "entry", "delete", "-entryID", w.entries["clinic/ward"])
	var said event
	eventually(t, func() error {
		another := startWorkload(t, filepath.Join(w.dir, "ward"), append([]string{"-wait", "1s"}, w.flags(w.home, "call")...)...)
		defer another.kill()
		said = another.await(t, patience, "word", func(e event) bool { return e.Kind == "failed" || e.Kind == "identity" })
		if said.Kind != "failed" {
			return fmt.Errorf("a new process of the workload still gets an identity")
		}
		return nil
	})
	w.say("ward, a new process: no identity, %v after the deletion: %s", said.Time.Sub(deleted).Round(10*time.Millisecond), said.Detail)

	limit := time.Until(first.NotAfter) + patience
	ended := ward.await(t, limit, "end of its stream", kind("stream ended", time.Time{}))
	gone := ward.await(t, limit, "end of its connection", kind("disconnected", time.Time{}))
	w.say("ward: stream ended with %s %s, connection closed, %v after the deletion, %v after the SVID", ended.Code, ended.Reason,
		gone.Time.Sub(deleted).Round(10*time.Millisecond), gone.Time.Sub(first.NotAfter).Round(time.Millisecond))
	refused(t, ended, interceptors.IdentityExpired)
	for what, at := range map[string]time.Time{"stream": ended.Time, "connection": gone.Time} {
		if late := at.Sub(first.NotAfter); late > moment {
			t.Errorf("the %s outlived the SVID by %v", what, late)
		}
	}
	last := first // it may have got another before the deletion
	for _, e := range ward.events.list() {
		if e.Kind == "identity" {
			last = e
		}
	}
	time.Sleep(time.Until(last.NotAfter.Add(moment)))
	again := ward.await(t, patience, "refusal of its old SVID", func(e event) bool {
		return e.Kind == "call" && e.Reason == identity.ErrCallerRefused.Error() && e.Time.After(gone.Time)
	})
	w.say("ward: a new connection with the SVID that it has left: %s: %s", again.Code, again.Detail)
	time.Sleep(moment)
	for _, e := range ward.events.list() {
		if e.Kind == "call" && e.Code == codes.OK.String() && e.Time.After(last.NotAfter) {
			t.Errorf("a call was answered %v after the SVID", e.Time.Sub(last.NotAfter))
		}
	}
}

// federation: a partner's workload is let in while there is a bundle, and no
// longer.
func (w *spireWorld) federation(t *testing.T) {
	results := startWorkload(t, filepath.Join(w.dir, "results"), w.flags(w.partner, "hold")...)
	first := results.await(t, patience, "SVID", kind("identity", time.Time{}))
	results.await(t, patience, "stream", kind("stream opened", time.Time{}))
	results.await(t, patience, "answered call", func(e event) bool { return e.Kind == "call" && e.Code == "OK" })
	w.say("results of partner.test: a stream is open; SVID until %s", first.NotAfter.Local().Format(time.TimeOnly))

	taken := time.Now()
	w.ctl(t, w.home, "bundle", "delete", "-id", "spiffe://partner.test", "-mode", "dissociate")
	told := w.awaitIdentity(t, taken, func(l identityLine) bool { return l.bundles == 1 })
	w.say("sallyport: %d bundle, delivered %v after", told.bundles, told.at.Sub(taken).Round(10*time.Millisecond))
	ended := results.await(t, patience, "end of its stream", kind("stream ended", taken))
	gone := results.await(t, patience, "end of its connection", kind("disconnected", taken))
	w.say("results: stream ended with %s %s %v after the delivery, connection closed after %v", ended.Code, ended.Reason,
		ended.Time.Sub(told.at).Round(time.Millisecond), gone.Time.Sub(told.at).Round(time.Millisecond))
	refused(t, ended, interceptors.IdentityRevoked)
	for what, at := range map[string]time.Time{"stream": ended.Time, "connection": gone.Time} {
		if late := at.Sub(told.at); late > moment {
			t.Errorf("the %s outlived the bundle by %v", what, late)
		}
	}
	w.expect(t, w.labdesk, w.partner, 3, `the server does not accept our identity.*`)
	results.await(t, patience, "refused handshake", func(e event) bool {
		return e.Kind == "call" && e.Reason == identity.ErrCallerRefused.Error() && e.Time.After(gone.Time)
	})

	back := time.Now()
	w.home.trust(t, w.partner)
	w.say("sallyport.test: bundle set -id spiffe://partner.test")
	w.ctl(t, w.home, "entry", "update", "-entryID", w.entries["sallyport"], "-parentID", w.home.id("node"), "-spiffeID", w.home.id("sallyport"),
		"-selector", "unix:path:"+filepath.Join(w.dir, "sallyportd"), "-x509SVIDTTL", strconv.Itoa(shortLife), "-federatesWith", "spiffe://partner.test", "-dns", "localhost")
	told = w.awaitIdentity(t, back, func(l identityLine) bool { return l.bundles == 2 })
	again := results.await(t, patience, "answered call", func(e event) bool { return e.Kind == "call" && e.Code == "OK" && e.Time.After(back) })
	w.say("results: answered again, %v after the delivery, without a restart", again.Time.Sub(told.at).Round(time.Millisecond))
	w.expect(t, w.labdesk, w.partner, 0, `breast-cancer version \d+`)
	w.unharmed(t, 2)
}

// agentKilled: Sallyport goes on with what it has and says so, and takes up
// rotation again when the agent is back, also when its SVID ended meanwhile.
func (w *spireWorld) agentKilled(t *testing.T) {
	const away = 8 * time.Second
	killed := time.Now()
	w.home.agent.kill()
	w.say("sallyport.test: the agent is killed for %v", away)
	w.serverSays(t, killed, `level=WARN msg="SPIFFE Workload API is away, going on with what is there"`)
	w.ready(t, 200, `^identity: ok: until \S+, Workload API away since [^:]*:\d\d:\d\d\S*`)
	time.Sleep(time.Until(killed.Add(away)))
	w.unharmed(t, 0)
	w.agentBack(t)
	w.triage.await(t, patience, "new SVID", kind("identity", killed.Add(away)))
	time.Sleep(2 * time.Second)
	w.unharmed(t, 1)
	if err := w.triage.stdin.Close(); err != nil {
		t.Error(err)
	}
	<-w.triage.ended

	all := w.identities()
	expires := all[len(all)-1].expires
	w.home.agent.kill()
	w.say("sallyport.test: the agent is killed until Sallyport's SVID has ended, in %v", time.Until(expires).Round(time.Second))
	time.Sleep(time.Until(expires))
	w.ready(t, 503, `^identity: failing: the server's own SVID expired`)
	w.serverSays(t, expires.Add(-time.Second), `level=ERROR msg="SPIFFE Workload API is away, and the SVID has expired"`)
	w.agentBack(t)
	w.expect(t, w.clinic, w.home, 0, `breast-cancer version \d+`)
}

// agentBack starts the agent again, without a join token: it has its identity on
// disk.
func (w *spireWorld) agentBack(t *testing.T) {
	t.Helper()
	back := time.Now()
	w.home.startAgent(t)
	w.say("sallyport.test: the agent is back after %v, without a join token", since(back))
	before := w.identities()
	serial := before[len(before)-1].serial
	for _, one := range before {
		if one.at.Before(back) {
			serial = one.serial
		}
	}
	renewed := w.awaitIdentity(t, back, func(l identityLine) bool { return l.serial != serial })
	w.serverSays(t, back, `level=INFO msg="SPIFFE Workload API is back"`)
	w.say("sallyport: a new SVID %v after the agent's start, without a restart", renewed.at.Sub(back).Round(10*time.Millisecond))
	w.ready(t, 200, `^identity: ok: until \S+$`) // and no word of an absence
}

// flags are those of a workload's command.
func (w *spireWorld) flags(d *trustDomain, command string) []string {
	return []string{"-socket", d.socket(), "-server", w.server.address, command}
}

// refused demands the status of an identity that has ended.
func refused(t *testing.T, e event, reason interceptors.Reason) {
	t.Helper()
	if e.Code != codes.Unauthenticated.String() || e.Reason != string(reason) {
		t.Errorf("%s: %s %s, want Unauthenticated %s: %s", e.Kind, e.Code, e.Reason, reason, e.Detail)
	}
}
