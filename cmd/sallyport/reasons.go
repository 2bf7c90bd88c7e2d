package main

import "github.com/sallyport/sallyport/interceptors"

// recordReasons are the reasons that a record can have.
var recordReasons = []string{
	string(interceptors.IdentityMissing),
	string(interceptors.IdentityExpired),
	string(interceptors.IdentityRevoked),
	string(interceptors.TokenInvalid),
	string(interceptors.TokenExpired),
	string(interceptors.TokenUnverified),
	string(interceptors.PolicyDenied),
	string(interceptors.CallerBlocked),
	string(interceptors.QuotaRequests),
	string(interceptors.QuotaRows),
	string(interceptors.QuotaStreams),
	string(interceptors.QuotaBudget),
	string(interceptors.QuotaUnavailable),
	string(interceptors.Overloaded),
	string(interceptors.MessageTooLarge),
	string(interceptors.RequestInvalid),
	string(interceptors.ContractViolated),
	string(interceptors.Malformed),
	string(interceptors.ModelNotFound),
	string(interceptors.ServiceNotFound),
	string(interceptors.MethodUnknown),
	string(interceptors.AuditUnavailable),
	string(interceptors.ModelNotReady),
	string(interceptors.Draining),
	string(interceptors.DeadlineExceeded),
	string(interceptors.Cancelled),
	string(interceptors.Internal),
	identityRejected, serverRejected, handshakeUnfinished, tooManyConnections,
}
