package interceptors_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
	inferencev1 "github.com/sallyport/sallyport/gen/go/sallyport/inference/v1"
	"github.com/sallyport/sallyport/identity/identitytest"
	"github.com/sallyport/sallyport/identity/usertoken"
	"github.com/sallyport/sallyport/interceptors"
)

const audience = "sallyport"

func verifier(t *testing.T, issuer *identitytest.Issuer) *usertoken.Verifier {
	t.Helper()
	v, err := usertoken.New(t.Context(), usertoken.Config{OIDC: []usertoken.OIDC{{
		Issuer: issuer.URL(), Audiences: []string{audience}, CAFile: issuer.CAFile(),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// onBehalf is the context of a call with these values of authorization.
func onBehalf(ctx context.Context, values ...string) context.Context {
	for _, v := range values {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
	}
	return ctx
}

// forms calls in both forms; of the stream it is the error that ends it.
var forms = map[string]func(context.Context, inferencev1.PredictionServiceClient) error{
	"unary": func(ctx context.Context, c inferencev1.PredictionServiceClient) error {
		_, err := c.Predict(ctx, good())
		return err
	},
	"stream": func(ctx context.Context, c inferencev1.PredictionServiceClient) error {
		stream, err := c.PredictStream(ctx)
		if err != nil {
			return err
		}
		_ = stream.Send(openStream("breast-cancer")) // Recv knows why not
		_ = stream.CloseSend()
		return drain(func() error { _, err := stream.Recv(); return err })
	},
}

// Who a workload calls for is proved, decided on and recorded, or the call is
// refused: unary and stream alike.
func TestOnBehalfOfAUser(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	users := verifier(t, issuer)
	doctors := worldPolicy + `  - {role: reader, callers: ["spiffe://sallyport.test/portal"], user: {issuer: "` + issuer.URL() + `", groups: [doctors], amr: [mfa]}}` + "\n"
	claims := issuer.Claims(audience)
	good := claims.With("groups", []string{"nurses", "doctors"}).With("amr", []string{"pwd", "mfa"})
	bearer := func(c identitytest.Claims) string { return "Bearer " + issuer.Token(t, c) }
	down := identitytest.NewIssuer(t)
	down.Answer(http.NotFoundHandler())
	for _, tt := range []struct {
		name   string
		caller string
		users  interceptors.UserVerifier
		auth   []string
		code   codes.Code
		reason interceptors.Reason
		user   string // on record
	}{
		{name: "caller with a role of its own, no user", caller: "/clinic/triage"},
		{name: "caller with a role of its own, user", caller: "/clinic/triage", auth: []string{bearer(claims)}, user: "alice"},
		{name: "scheme in other letters", caller: "/clinic/triage", auth: []string{"bearer " + issuer.Token(t, claims)}, user: "alice"},
		{name: "role for such users", caller: "/portal", auth: []string{bearer(good)}, user: "alice"},
		{name: "role for users, none", caller: "/portal", code: codes.PermissionDenied, reason: interceptors.PolicyDenied},
		{name: "role for users, not in the group", caller: "/portal", auth: []string{bearer(good.With("groups", "nurses"))}, code: codes.PermissionDenied, reason: interceptors.PolicyDenied, user: "alice"},
		{name: "role for users, without second factor", caller: "/portal", auth: []string{bearer(good.Without("amr"))}, code: codes.PermissionDenied, reason: interceptors.PolicyDenied, user: "alice"},
		{name: "a good token does not make a workload", caller: "/nobody", auth: []string{bearer(good)}, code: codes.PermissionDenied, reason: interceptors.PolicyDenied, user: "alice"},
		{name: "bad token of a caller that needs none", caller: "/clinic/triage", auth: []string{bearer(good) + "x"}, code: codes.Unauthenticated, reason: interceptors.TokenInvalid},
		{name: "empty token", caller: "/clinic/triage", auth: []string{"Bearer "}, code: codes.Unauthenticated, reason: interceptors.TokenInvalid},
		{name: "no scheme", caller: "/clinic/triage", auth: []string{issuer.Token(t, claims)}, code: codes.Unauthenticated, reason: interceptors.TokenInvalid},
		{name: "another scheme", caller: "/clinic/triage", auth: []string{"Basic YWxpY2U6c2VjcmV0"}, code: codes.Unauthenticated, reason: interceptors.TokenInvalid},
		{name: "two tokens", caller: "/clinic/triage", auth: []string{bearer(good), bearer(claims)}, code: codes.Unauthenticated, reason: interceptors.TokenInvalid},
		{name: "expired", caller: "/clinic/triage", auth: []string{bearer(claims.With("iat", time.Now().Add(-5*time.Minute).Unix()).With("exp", time.Now().Add(-time.Minute).Unix()))}, code: codes.Unauthenticated, reason: interceptors.TokenExpired},
		{name: "token where none are taken", caller: "/clinic/triage", users: noUsers, auth: []string{bearer(claims)}, code: codes.Unauthenticated, reason: interceptors.TokenInvalid},
		{name: "issuer that cannot be asked", caller: "/clinic/triage", users: verifier(t, down), auth: []string{"Bearer " + down.Token(t, down.Claims(audience))}, code: codes.Unavailable, reason: interceptors.TokenUnverified},
	} {
		for form, call := range forms {
			t.Run(tt.name+"/"+form, func(t *testing.T) {
				opts := worldOptions{users: users}
				if tt.users != nil {
					opts.users = tt.users
				}
				if tt.users == noUsers {
					opts.users = nil
				}
				w := newWorld(t, opts)
				w.setPolicy(t, doctors)
				err := call(onBehalf(t.Context(), tt.auth...), inferencev1.NewPredictionServiceClient(w.dial(t, tt.caller)))
				if st := status.Convert(err); st.Code() != tt.code || reasonOf(st) != tt.reason {
					t.Errorf("answered with %v %s, want %v %s", st, reasonOf(st), tt.code, tt.reason)
				}
				records := w.recorded(t, func(*auditv1.Record) bool { return true })
				if len(records) != 1 || records[0].GetReason() != string(tt.reason) || records[0].GetUser().GetSubject() != tt.user {
					t.Errorf("records %v", records)
				}
			})
		}
	}
}

// noUsers stands for a chain without a verifier.
var noUsers interceptors.UserVerifier = (*usertoken.Verifier)(nil)

// A stream ends with the token of its user, also while it idles.
func TestStreamEndsWithTheToken(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	w := newWorld(t, worldOptions{users: verifier(t, issuer)})
	end := time.Now().Add(5 * time.Second).Truncate(time.Second)
	token := issuer.Token(t, issuer.Claims(audience).With("exp", end.Unix()))
	stream, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/clinic/triage")).PredictStream(onBehalf(t.Context(), "Bearer "+token))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(openStream("breast-cancer")); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	late := time.Since(end)
	if st := status.Convert(err); st.Code() != codes.Unauthenticated || reasonOf(st) != interceptors.TokenExpired {
		t.Errorf("ended with %v", err)
	}
	if late < 0 || late > 10*time.Second { // a second, on a machine that is not busy
		t.Errorf("ended %v after the token", late)
	}
}

// A new policy asks again about the user, too.
func TestPolicyTakesTheUsersRole(t *testing.T) {
	issuer := identitytest.NewIssuer(t)
	w := newWorld(t, worldOptions{users: verifier(t, issuer)})
	binding := func(group string) string {
		return worldPolicy + `  - {role: reader, callers: ["spiffe://sallyport.test/portal"], user: {issuer: "` + issuer.URL() + `", groups: [` + group + `]}}` + "\n"
	}
	w.setPolicy(t, binding("doctors"))
	token := issuer.Token(t, issuer.Claims(audience).With("groups", "doctors"))
	stream, err := inferencev1.NewPredictionServiceClient(w.dial(t, "/portal")).PredictStream(onBehalf(t.Context(), "Bearer "+token))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(openStream("breast-cancer")); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	w.setPolicy(t, binding("nurses"))
	if n := w.chain.Recheck(); n != 1 {
		t.Errorf("%d calls ended", n)
	}
	if _, err := stream.Recv(); reasonOf(status.Convert(err)) != interceptors.PolicyDenied {
		t.Errorf("ended with %v", err)
	}
}
