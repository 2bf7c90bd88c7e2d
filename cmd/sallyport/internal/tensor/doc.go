// Package tensor reads and writes the elements of the API's tensors, as text and
// as JSON, and cuts tensors by rows.
package tensor
