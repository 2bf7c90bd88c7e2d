package otlp

// schemaURL is the version of OpenTelemetry's semantic conventions whose names
// are used. Later ones call the rpc attributes otherwise; a collector that wants
// those translates by this URL.
const schemaURL = "https://opentelemetry.io/schemas/1.37.0"

// Attributes of the semantic conventions.
const (
	attrServiceName    = "service.name"
	attrServiceVersion = "service.version"
	attrHostName       = "host.name"

	attrRecordUID     = "log.record.uid" // the call's id
	attrRPCSystem     = "rpc.system"
	attrRPCService    = "rpc.service"
	attrRPCMethod     = "rpc.method"
	attrRPCStatus     = "rpc.grpc.status_code"
	attrErrorType     = "error.type" // the reason of the refusal
	attrClientAddress = "client.address"
	attrClientPort    = "client.port"
	attrEndUser       = "enduser.id" // the user's subject
)

// Attributes of our own.
const (
	attrSequence         = "sallyport.sequence"
	attrKind             = "sallyport.kind"
	attrDuration         = "sallyport.duration" // seconds
	attrCaller           = "sallyport.caller.id"
	attrSVIDSerial       = "sallyport.caller.svid.serial"
	attrSVIDExpiry       = "sallyport.caller.svid.expiry"
	attrClaimed          = "sallyport.claimed.id"
	attrUserIssuer       = "sallyport.user.issuer"
	attrUserExpiry       = "sallyport.user.expiry"
	attrAction           = "sallyport.action"
	attrModel            = "sallyport.model.name"
	attrModelVersion     = "sallyport.model.version"
	attrModelDigest      = "sallyport.model.digest"
	attrModelDuration    = "sallyport.model.duration" // seconds
	attrDetail           = "sallyport.detail"
	attrRoles            = "sallyport.roles"
	attrDecision         = "sallyport.policy.decision"
	attrPolicyGeneration = "sallyport.policy.generation"
	attrPolicyDigest     = "sallyport.policy.digest"
	attrShadowDigest     = "sallyport.shadow.policy.digest"
	attrShadowDecision   = "sallyport.shadow.decision"
	attrShadowDetail     = "sallyport.shadow.detail"
	attrShadowAllow      = "sallyport.shadow.would_allow"
	attrShadowDeny       = "sallyport.shadow.would_deny"
	attrMessagesReceived = "sallyport.messages.received"
	attrMessagesSent     = "sallyport.messages.sent"
	attrBytesReceived    = "sallyport.bytes.received"
	attrBytesSent        = "sallyport.bytes.sent"
	attrRowsReceived     = "sallyport.rows.received"
	attrRowsRun          = "sallyport.rows.run"
	attrRefused          = "sallyport.batches.refused" // by reason
	attrInputDigest      = "sallyport.input.digest"    // hexadecimal
	attrRemovedThrough   = "sallyport.log.removed_through"
	attrRemoval          = "sallyport.log.removal"
	attrKeyID            = "sallyport.log.key.id"
	attrKeyKeeper        = "sallyport.log.key.keeper"
	attrKeyCiphertext    = "sallyport.log.key.ciphertext"
	attrSealed           = "sallyport.log.sealed" // that its key is needed to read more
)
