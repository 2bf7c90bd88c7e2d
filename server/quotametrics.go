package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sallyport/sallyport/interceptors/quota"
)

// maxQuotaSeries bounds the accounts that have series of their own.
const maxQuotaSeries = 1000

// quotaUse shows who has used how much. Its labels are identities that were proved
// and roles of the policy; their number is bounded.
type quotaUse struct {
	uses          func(n int) ([]quota.Use, int)
	used, leftOut *prometheus.Desc
}

func newQuotaUse(uses func(n int) ([]quota.Use, int)) *quotaUse {
	return &quotaUse{
		uses: uses,
		used: prometheus.NewDesc("sallyport_quota_used_ratio",
			"Part of its limit that a caller has used, as far as this replica knows, of those nearest to a limit.",
			[]string{"caller", "roles", "limit"}, nil),
		leftOut: prometheus.NewDesc("sallyport_quota_left_out", "Callers that sallyport_quota_used_ratio leaves out.", nil, nil),
	}
}

// Describe is prometheus.Collector's.
func (q *quotaUse) Describe(to chan<- *prometheus.Desc) {
	to <- q.used
	to <- q.leftOut
}

// Collect is prometheus.Collector's.
func (q *quotaUse) Collect(to chan<- prometheus.Metric) {
	uses, leftOut := q.uses(maxQuotaSeries)
	to <- prometheus.MustNewConstMetric(q.leftOut, prometheus.GaugeValue, float64(leftOut))
	for i := range uses {
		u := &uses[i]
		one := func(limit string, used, most int64) {
			if most > 0 {
				to <- prometheus.MustNewConstMetric(q.used, prometheus.GaugeValue,
					float64(used)/float64(most), u.Account.Caller, u.Account.Key, limit)
			}
		}
		for k, most := range u.Limits.Most() {
			if !u.Standing.Knows(quota.Kind(k)) {
				continue
			}
			one(quota.Kind(k).String(), most-u.Standing.Left[k], most)
		}
		one("streams", u.Streams, u.Limits.MaxStreams)
	}
}
