//go:build spire && linux

package main_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// rotation: SVIDs of server and client are renewed, then the authority itself,
// while calls and a stream go on.
func (w *spireWorld) rotation(t *testing.T) {
	w.triage = startWorkload(t, filepath.Join(w.dir, "triage"), w.flags(w.home, "load")...)
	w.triage.await(t, patience, "first SVID", kind("identity", time.Time{}))
	w.say("triage: a call and a batch each 50 ms")
	before, began := w.serials(), time.Now()
	for n := range 3 {
		eventually(t, func() error {
			if w.serials() <= before+n {
				return fmt.Errorf("%d SVIDs of the server, want more than %d", w.serials(), before+n)
			}
			return nil
		})
		all := w.identities()
		last := all[len(all)-1]
		w.say("sallyport: SVID %s… until %s", last.serial[:8], last.expires.Format(time.TimeOnly))
	}
	w.say("3 rotations of the server in %v", since(began))
	w.unharmed(t, 2)
	w.authorityReplaced(t)
}

// authorityReplaced: the X.509 authority of sallyport.test is replaced and the
// old one revoked.
func (w *spireWorld) authorityReplaced(t *testing.T) {
	prepared := w.prepareAuthority(t, "x509")
	w.partner.trust(t, w.home)
	w.say("partner.test has the new bundle")
	time.Sleep(5 * time.Second) // until all have the bundle with both
	old := w.activateAuthority(t, "x509", prepared)
	tainted := time.Now()
	w.ctl(t, w.home, "localauthority", "x509", "taint", "-authorityID", old)
	serial := w.identities()[len(w.identities())-1].serial
	renewed := w.awaitIdentity(t, tainted, func(l identityLine) bool { return l.serial != serial })
	w.say("sallyport: SVID of the new authority, %v after the taint", renewed.at.Sub(tainted).Round(10*time.Millisecond))
	w.triage.await(t, patience, "SVID of the new authority", kind("identity", tainted))
	time.Sleep(3 * time.Second) // until the others have theirs
	w.ctl(t, w.home, "localauthority", "x509", "revoke", "-authorityID", old)
	revoked := time.Now()
	w.partner.trust(t, w.home)
	left := w.awaitIdentity(t, revoked, func(identityLine) bool { return true })
	w.say("sallyport: next update %v after the revocation", left.at.Sub(revoked).Round(10*time.Millisecond))
	time.Sleep(2 * time.Second)
	w.unharmed(t, 1)
	w.expect(t, w.clinic, w.home, 0, `breast-cancer version \d+`)
	w.expect(t, w.labdesk, w.partner, 0, `breast-cancer version \d+`)
}

// prepareAuthority makes a new authority of sallyport.test, x509 or jwt, and
// returns its id.
func (w *spireWorld) prepareAuthority(t *testing.T, kind string) string {
	t.Helper()
	var answer struct {
		Prepared struct {
			ID string `json:"authority_id"`
		} `json:"prepared_authority"`
	}
	out := w.ctl(t, w.home, "localauthority", kind, "prepare", "-output", "json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Prepared.ID == "" {
		t.Fatalf("%v: %s", err, out)
	}
	return answer.Prepared.ID
}

// activateAuthority puts a prepared authority into force and returns the id of
// the one before.
func (w *spireWorld) activateAuthority(t *testing.T, kind, id string) (old string) {
	t.Helper()
	w.ctl(t, w.home, "localauthority", kind, "activate", "-authorityID", id)
	var answer struct {
		Old struct {
			ID string `json:"authority_id"`
		} `json:"old"`
	}
	out := w.home.ctl(t, "localauthority", kind, "show", "-output", "json")
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Old.ID == "" {
		t.Fatalf("%v: %s", err, out)
	}
	return answer.Old.ID
}
