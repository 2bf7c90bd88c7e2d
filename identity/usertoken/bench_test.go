package usertoken_test

import (
	"testing"

	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
)

func BenchmarkVerify(b *testing.B) {
	issuer := identitytest.NewIssuer(b)
	v := open(b, usertoken.Config{OIDC: []usertoken.OIDC{oidc(issuer)}})
	claims := issuer.Claims(audience).With("groups", []string{"clinic", "triage"}).With("scope", "predict describe")
	for _, kid := range []string{"rsa-1", "ec-1"} {
		token := issuer.Key(kid).Token(b, claims)
		run := func(name string, before func()) {
			b.Run(kid+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					before()
					if _, err := v.Verify(b.Context(), token); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		run("first", v.Forget)
		run("remembered", func() {})
	}
}
