package quota

import "time"

// Limits is how much one caller may use. The zero value allows nothing.
type Limits struct {
	// RequestsPerSecond is the rate of calls and messages of a stream.
	RequestsPerSecond float64
	// RequestBurst is the most calls and messages at once.
	RequestBurst int64
	// RowsPerSecond is the rate of rows.
	RowsPerSecond float64
	// RowBurst is the most rows at once.
	RowBurst int64
	// MaxRowsPerRequest is the most rows in one request or batch.
	MaxRowsPerRequest int64
	// MaxStreams is the most streams open at the same time.
	MaxStreams int64
	// Day and Month are budgets. They hold only where there is a Store.
	Day, Month Budget
	// Alone says that each replica counts for itself while the store does not
	// answer; else what needs the store is refused then.
	Alone bool
}

// Budget is how much may be used in a period, by UTC. It does not refill: what is
// used up is used up until the period ends. What is 0 is not bounded.
type Budget struct {
	// Rows that models run.
	Rows int64
	// Bytes of messages received and sent.
	Bytes int64
	// ModelTime is the time that models run, counted in whole microseconds.
	ModelTime time.Duration
}

// Kind is one of the counters of an account: the index into Amounts.
type Kind uint8

// The counters of an account: two buckets that refill, then what of each budget
// has been used. Time is in microseconds.
const (
	KindRequests Kind = iota
	KindRows
	KindDayRows
	KindDayBytes
	KindDayTime
	KindMonthRows
	KindMonthBytes
	KindMonthTime
	Kinds // their number
)

// Amounts are one amount for each Kind.
type Amounts [Kinds]int64

// String is the counter's name, the same in refusals, headers, metrics and pages:
// "requests", "day-rows".
func (k Kind) String() string { return k.limit().String() }

// limit is the Limit that a refusal for the kind names.
func (k Kind) limit() Limit {
	return [Kinds]Limit{Requests, Rows, DayRows, DayBytes, DayTime, MonthRows, MonthBytes, MonthTime}[k]
}

// day and month tell which budget the kind belongs to.
func (k Kind) day() bool   { return k >= KindDayRows && k <= KindDayTime }
func (k Kind) month() bool { return k >= KindMonthRows }

// Most is the most of each kind at once: bursts and budgets. A budget that is not
// set has 0.
func (l *Limits) Most() Amounts {
	return Amounts{
		l.RequestBurst, l.RowBurst,
		l.Day.Rows, l.Day.Bytes, l.Day.ModelTime.Microseconds(),
		l.Month.Rows, l.Month.Bytes, l.Month.ModelTime.Microseconds(),
	}
}

// Budgeted tells whether there is any budget.
func (l *Limits) Budgeted() bool { return l.Day != Budget{} || l.Month != Budget{} }

// Cost is what one message takes.
type Cost struct {
	// Rows that it wants to run.
	Rows int64
	// Bytes of the message.
	Bytes int64
}

// amounts is what a message takes of each kind that is limited. perRow is how many
// microseconds a row is expected to run.
func (l *Limits) amounts(c Cost, perRow float64) Amounts {
	need := Amounts{KindRequests: 1, KindRows: c.Rows}
	if !l.Budgeted() {
		return need
	}
	// At least one of each, so that what is settled afterwards is asked for again.
	bytes, micros := max(c.Bytes, 1), max(int64(float64(c.Rows)*perRow), 1)
	for _, most := range [...]time.Duration{l.Day.ModelTime, l.Month.ModelTime} {
		if most > 0 { // the estimate alone must not refuse for good
			micros = min(micros, most.Microseconds())
		}
	}
	for i, b := range [...]*Budget{&l.Day, &l.Month} {
		at := need[int(KindDayRows)+3*i:]
		if b.Rows > 0 {
			at[0] = c.Rows
		}
		if b.Bytes > 0 {
			at[1] = bytes
		}
		if b.ModelTime > 0 {
			at[2] = micros
		}
	}
	return need
}
