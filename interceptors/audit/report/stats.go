package report

import (
	"cmp"
	"slices"
)

// number is what medians are taken of.
type number interface{ ~uint64 | ~float64 }

// median is the middle of values, which it sorts; 0 if there are none.
func median[T number](values []T) T {
	if len(values) == 0 {
		return 0
	}
	slices.SortFunc(values, cmp.Compare)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

// deviation is the median of how far values are from their median m.
func deviation[T number](values []T, m T) T {
	distances := make([]T, len(values))
	for i, v := range values {
		distances[i] = max(v, m) - min(v, m)
	}
	return median(distances)
}
