package identity_test

import (
	"crypto/tls"
	"net"
	"sync"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/sallyport/sallyport/identity"
	"github.com/sallyport/sallyport/identity/identitytest"
)

// A session from before a caller was blocked is no way in afterwards.
func TestServerDoesNotResume(t *testing.T) {
	ca := identitytest.NewCA(t, "sallyport.test")
	var block sync.Map
	s := serve(t, identitytest.NewSource(ca.SVID(t, "/sallyport"), ca.Bundle()), identity.ServerConfig{
		TrustDomains: []spiffeid.TrustDomain{home},
		Admit: func(c *identity.Caller, _ net.Addr) error {
			if _, ok := block.Load(c.ID); ok {
				return errBlocked
			}
			return nil
		},
	})
	cache := &tickets{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	cfg := tlsConfig(ca.SVID(t, "/clinic/triage"))
	cfg.ClientSessionCache = cache
	cfg.ServerName = "localhost"

	if _, err := knock(t, s.addr, cfg); err != nil {
		t.Fatal(err)
	}
	if cache.got != 0 {
		t.Errorf("server issued %d session tickets", cache.got)
	}
	if state, err := knock(t, s.addr, cfg); err != nil || state.DidResume {
		t.Errorf("second connection: resumed %v, error %v", state.DidResume, err)
	}
	block.Store(clinic, true)
	if state, err := knock(t, s.addr, cfg); err == nil {
		t.Errorf("blocked caller admitted, resumed %v", state.DidResume)
	}
	if refusals := s.stop(); len(refusals) != 1 {
		t.Errorf("refusals %v", refusals)
	}
}

type tickets struct {
	tls.ClientSessionCache
	got int
}

func (c *tickets) Put(key string, state *tls.ClientSessionState) {
	if state != nil {
		c.got++
	}
	c.ClientSessionCache.Put(key, state)
}
