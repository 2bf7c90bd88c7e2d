//go:build !linux

package onnx

// stepAside does nothing where threads cannot be told to.
func stepAside() (back func()) { return func() {} }
