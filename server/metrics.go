package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/sallyport/sallyport/interceptors"
	"github.com/sallyport/sallyport/interceptors/quota"
)

// Metrics are the server's Prometheus metrics. No label holds a value that a
// caller can make up.
type Metrics struct {
	registry   *prometheus.Registry
	calls      *prometheus.CounterVec
	rows       *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	gates      prometheus.Histogram
	model      *prometheus.HistogramVec
	waits      *prometheus.HistogramVec
	merged     *prometheus.HistogramVec
	mergedRows *prometheus.HistogramVec
	unmerged   *prometheus.CounterVec
	handshakes prometheus.Counter
	revoked    prometheus.Counter
	rechecked  prometheus.Counter
	shadow     *prometheus.CounterVec
}

// Sources are the values that metrics read when they are asked for. Each must
// be set and must not block.
type Sources struct {
	SVIDExpiry      func() time.Time
	AuditQueue      func() int
	AuditCommit     func() time.Duration
	AuditRecords    func() uint64
	AuditCommits    func() uint64
	AuditFailures   func() uint64
	AuditCheckpoint func() uint64
	// WitnessFailures counts checkpoints that were not sent; 0 without a witness.
	WitnessFailures  func() uint64
	Quota            func() quota.Stats
	ModelVersions    func() int
	ModelFailures    func() int
	PolicyGeneration func() uint64
	PolicyStale      func() bool
	Connections      func() int
	RunsWaiting      func() int
	IssuersUnusable  func() int
	// QuotaUses are the accounts nearest to a limit, and how many are left out.
	QuotaUses func(n int) ([]quota.Use, int)
	// QuotaStoreAway tells whether the store of quotas does not answer.
	QuotaStoreAway func() bool
	// ShadowGeneration is 0 if there is no shadow policy.
	ShadowGeneration func() uint64
	ShadowStale      func() bool
	// WorkloadAPIAway tells whether the Workload API does not answer.
	WorkloadAPIAway func() bool
}

// NewMetrics returns metrics in a registry of their own.
func NewMetrics(src Sources) *Metrics {
	truth := func(value func() bool) func() float64 {
		return func() float64 {
			if value() {
				return 1
			}
			return 0
		}
	}
	fast := prometheus.ExponentialBuckets(1e-6, 4, 11)
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_calls_total", Help: "RPCs by what became of them.",
		}, []string{"action", "model", "code", "reason"}),
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_rows_total", Help: "Rows that models ran.",
		}, []string{"model"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_call_duration_seconds", Help: "From the headers of an RPC to its durable record.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 3, 12),
		}, []string{"action"}),
		gates: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sallyport_gates_duration_seconds", Help: "From the headers of an RPC to its first valid message, reading included.",
			Buckets: fast,
		}),
		model: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_model_duration_seconds", Help: "Time that a call's model ran; of runs of merged requests its part by rows.",
			Buckets: fast,
		}, []string{"model"}),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_run_wait_seconds", Help: "How long requests waited for their run that had to wait.",
			Buckets: fast,
		}, []string{"model"}),
		merged: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_batch_requests", Help: "Requests in a run of merged ones.",
			Buckets: prometheus.ExponentialBuckets(2, 2, 8),
		}, []string{"model"}),
		mergedRows: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sallyport_batch_rows", Help: "Rows in a run of merged requests.",
			Buckets: prometheus.ExponentialBuckets(2, 2, 13),
		}, []string{"model"}),
		unmerged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_batch_failures_total", Help: "Runs of merged requests that failed, so that each was run by itself.",
		}, []string{"model"}),
		handshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_handshakes_refused_total", Help: "Connections refused in the TLS handshake.",
		}),
		revoked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_connections_revoked_total", Help: "Open connections that were ended because their identity no longer held.",
		}),
		rechecked: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sallyport_calls_revoked_total", Help: "Open RPCs that were ended because a new policy does not allow them, or the token of their user is no longer accepted.",
		}),
		shadow: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sallyport_shadow_differences_total", Help: "Decisions that the shadow policy would have made otherwise, by what it would do.",
		}, []string{"would"}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	counter := func(name, help string, value func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	m.registry.MustRegister(
		newQuotaUse(src.QuotaUses),
		m.calls, m.rows, m.duration, m.gates, m.model, m.waits, m.merged, m.mergedRows, m.unmerged, m.handshakes, m.revoked, m.rechecked, m.shadow,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("sallyport_svid_expiry_timestamp_seconds", "When the server's own X.509-SVID ends.",
			func() float64 { return float64(src.SVIDExpiry().Unix()) }),
		gauge("sallyport_audit_queue", "Records that wait to be written.",
			func() float64 { return float64(src.AuditQueue()) }),
		gauge("sallyport_audit_commit_seconds", "How long the last group commit took.",
			func() float64 { return src.AuditCommit().Seconds() }),
		counter("sallyport_audit_records_total", "Records in the audit log, those of earlier runs included.", src.AuditRecords),
		counter("sallyport_audit_commits_total", "Group commits since the start: how often the disk was waited for.", src.AuditCommits),
		counter("sallyport_audit_failures_total", "How often the audit log became unavailable since the start.", src.AuditFailures),
		gauge("sallyport_audit_checkpoint_records", "Records that the last signed checkpoint covers.",
			func() float64 { return float64(src.AuditCheckpoint()) }),
		counter("sallyport_audit_witness_failures_total", "Checkpoints that could not be sent to the witness since the start.", src.WitnessFailures),
		gauge("sallyport_quota_callers", "Callers whose use is being remembered.",
			func() float64 { return float64(src.Quota().Callers) }),
		gauge("sallyport_quota_leases", "Callers of whose shared limits this replica holds something that it has not used.",
			func() float64 { return float64(src.Quota().Leases) }),
		counter("sallyport_quota_store_round_trips_total", "Round trips to the store of quotas.",
			func() uint64 { return src.Quota().RoundTrips }),
		counter("sallyport_quota_store_failures_total", "Round trips to the store of quotas that failed.",
			func() uint64 { return src.Quota().StoreFailures }),
		gauge("sallyport_quota_store_away", "1 while the store of quotas does not answer and each role's on_store_failure holds.",
			truth(src.QuotaStoreAway)),
		gauge("sallyport_model_versions", "Versions of models that are loaded.",
			func() float64 { return float64(src.ModelVersions()) }),
		gauge("sallyport_model_failures", "Files of models that cannot be used.",
			func() float64 { return float64(src.ModelFailures()) }),
		gauge("sallyport_policy_generation", "Generation of the policy in force.",
			func() float64 { return float64(src.PolicyGeneration()) }),
		gauge("sallyport_policy_stale", "1 while the policy file is bad and an older policy is in force.",
			truth(src.PolicyStale)),
		gauge("sallyport_shadow_generation", "Generation of the shadow policy; 0 if there is none.",
			func() float64 { return float64(src.ShadowGeneration()) }),
		gauge("sallyport_shadow_stale", "1 while the file of the shadow policy is bad and an older one is compared with.",
			truth(src.ShadowStale)),
		gauge("sallyport_issuers_unusable", "Issuers of users' tokens whose keys cannot be had, so that their tokens are refused.",
			func() float64 { return float64(src.IssuersUnusable()) }),
		gauge("sallyport_runs_waiting", "Runs of models that wait for their turn.",
			func() float64 { return float64(src.RunsWaiting()) }),
		gauge("sallyport_connections", "Connections open now.",
			func() float64 { return float64(src.Connections()) }),
		gauge("sallyport_workload_api_away", "1 while the Workload API does not answer and the server goes on with the identity it has.",
			truth(src.WorkloadAPIAway)),
	)
	for _, would := range []string{shadowAllow, shadowDeny} {
		m.shadow.WithLabelValues(would)
	}
	return m
}

// Gatherer is what /metrics shows.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// Observe counts one RPC.
func (m *Metrics) Observe(o interceptors.Outcome) {
	m.calls.WithLabelValues(o.Action, o.Model, code.Code(o.Code).String(), string(o.Reason)).Inc() //nolint:gosec // codes are 0 to 16
	m.duration.WithLabelValues(o.Action).Observe(o.Duration.Seconds())
	if o.Gates > 0 {
		m.gates.Observe(o.Gates.Seconds())
	}
	if o.Running > 0 {
		m.model.WithLabelValues(o.Model).Observe(o.Running.Seconds())
	}
	if o.Rows > 0 {
		m.rows.WithLabelValues(o.Model).Add(float64(o.Rows))
	}
	if o.ShadowAllow > 0 {
		m.shadow.WithLabelValues(shadowAllow).Add(float64(o.ShadowAllow))
	}
	if o.ShadowDeny > 0 {
		m.shadow.WithLabelValues(shadowDeny).Add(float64(o.ShadowDeny))
	}
}

// What a shadow policy would do.
const shadowAllow, shadowDeny = "allow", "deny"

// ConnectionsRevoked counts open connections that were ended.
func (m *Metrics) ConnectionsRevoked(n int) { m.revoked.Add(float64(n)) }

// CallsRevoked counts open RPCs that were ended by a new policy or with their
// user.
func (m *Metrics) CallsRevoked(n int) { m.rechecked.Add(float64(n)) }

// RunWaited is told of a request that had to wait for its run.
func (m *Metrics) RunWaited(model string, d time.Duration) {
	m.waits.WithLabelValues(model).Observe(d.Seconds())
}

// RunMerged is told of a run of merged requests, and whether it failed.
func (m *Metrics) RunMerged(model string, requests int, rows int64, err error) {
	m.merged.WithLabelValues(model).Observe(float64(requests))
	m.mergedRows.WithLabelValues(model).Observe(float64(rows))
	if err != nil {
		m.unmerged.WithLabelValues(model).Inc()
	}
}

// HandshakeRefused counts one refused connection.
func (m *Metrics) HandshakeRefused() { m.handshakes.Inc() }
