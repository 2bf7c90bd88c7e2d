// Package report counts the records of an audit log into the picture that a
// security officer wants: who called what, what was refused and why, which
// callers are unlike themselves before, and what happened to the server.
//
// It reads each record once and keeps a bounded amount, whatever the log holds.
package report

import "time"

// Report is what a log says about a period. Its JSON form is stable: fields are
// added, not renamed. Lists are sorted, the most calls first or the oldest
// first, so that the same log gives the same report.
type Report struct {
	Log    Log    `json:"log"`
	Period Period `json:"period"`
	Totals Totals `json:"totals"`
	// Calls are who called what; what was not kept apart is in rows with others.
	Calls []Call `json:"calls"`
	// Refusals are refused calls and batches by reason, RefusalsByCaller also by
	// caller.
	Refusals         []Refusal `json:"refusals"`
	RefusalsByCaller []Refusal `json:"refusals_by_caller"`
	// Handshakes are refused handshakes by claimed SPIFFE ID and peer.
	Handshakes []Handshake `json:"handshakes"`
	// Unusual are the findings of Rules, in their order.
	Unusual []Finding `json:"unusual"`
	Rules   []Rule    `json:"rules"`
	// Events are what happened to the server and to the log, by category.
	Events []Events `json:"events"`
	// Notes say what the report does not know or did not keep.
	Notes []string `json:"notes"`
}

// Log is what was read.
type Log struct {
	Records uint64    `json:"records"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
}

// Period is what is reported on; until is excluded. Records count by when they
// began.
type Period struct {
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
}

// Totals are sums over the period.
type Totals struct {
	Records uint64 `json:"records"`
	Calls   uint64 `json:"calls"`
	// Refused are calls with another code than OK; of them denied are those that
	// PERMISSION_DENIED or UNAUTHENTICATED ended.
	Refused uint64 `json:"refused"`
	Denied  uint64 `json:"denied"`
	// Callers and Models are distinct ones of calls, at most so many as are kept.
	Callers    int    `json:"callers"`
	Models     int    `json:"models"`
	Handshakes uint64 `json:"handshakes_refused"`
	// Unrecorded are refused handshakes that came too fast to be recorded.
	Unrecorded    uint64  `json:"handshakes_unrecorded"`
	Events        uint64  `json:"events"`
	Own           uint64  `json:"own"`
	Sealed        uint64  `json:"sealed"`
	RowsReceived  uint64  `json:"rows_received"`
	RowsRun       uint64  `json:"rows_run"`
	BytesReceived uint64  `json:"bytes_received"`
	BytesSent     uint64  `json:"bytes_sent"`
	ModelSeconds  float64 `json:"model_seconds"`
}

// Call is what one caller did to one model by one action.
type Call struct {
	// Caller is empty if no identity was proved.
	Caller string `json:"caller"`
	Model  string `json:"model"`
	// Action is the policy action, or empty.
	Action string `json:"action"`
	// Others is true of a row for all that was not kept apart: models of this
	// caller, or callers if the caller is empty.
	Others bool `json:"others,omitempty"`
	// Users are distinct users; with UsersMore there are more.
	Users         int     `json:"users"`
	UsersMore     bool    `json:"users_more,omitempty"`
	Calls         uint64  `json:"calls"`
	Refused       uint64  `json:"refused"`
	Denied        uint64  `json:"denied"`
	RowsReceived  uint64  `json:"rows_received"`
	RowsRun       uint64  `json:"rows_run"`
	BytesReceived uint64  `json:"bytes_received"`
	BytesSent     uint64  `json:"bytes_sent"`
	ModelSeconds  float64 `json:"model_seconds"`
	// P50 and P99 are durations of answered calls, at most 5 % too long; 0 if none
	// was answered.
	P50   float64   `json:"p50_seconds"`
	P99   float64   `json:"p99_seconds"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Refusal is how often a reason ended calls or refused batches of streams.
type Refusal struct {
	// Caller is set if it is about one.
	Caller string `json:"caller,omitempty"`
	Reason string `json:"reason"`
	Code   string `json:"code"`
	Calls  uint64 `json:"calls"`
	// Batches were refused on streams that went on.
	Batches uint64 `json:"batches"`
	// Callers are how many had it; 0 if it is about one.
	Callers int       `json:"callers,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
}

// Handshake is what one peer host had refused in the name of one SPIFFE ID, which
// is NOT proved.
type Handshake struct {
	Claimed string            `json:"claimed"`
	Peer    string            `json:"peer"`
	Others  bool              `json:"others,omitempty"`
	Count   uint64            `json:"count"`
	Reasons map[string]uint64 `json:"reasons"`
	First   time.Time         `json:"first"`
	Last    time.Time         `json:"last"`
}

// Finding is something unusual about a caller.
type Finding struct {
	Rule   string `json:"rule"`
	Caller string `json:"caller"`
	// Why says it in words, Numbers what it rests on.
	Why     string             `json:"why"`
	Numbers map[string]float64 `json:"numbers"`
	// Show are arguments of audit show that show the records behind it.
	Show []string `json:"show"`
}

// Rule is how findings of one sort are made.
type Rule struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Events are what happened of one category.
type Events struct {
	Category string `json:"category"`
	Count    uint64 `json:"count"`
	// Latest are the last of them, the oldest first.
	Latest []Event `json:"latest"`
}

// Event is one thing that happened.
type Event struct {
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
	Detail   string    `json:"detail"`
	// Fault is true if somebody should look after it.
	Fault bool `json:"fault,omitempty"`
}
