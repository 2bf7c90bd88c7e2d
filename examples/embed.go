// Package examples carries the example models, made by train/train.py, inside
// the binary: `sallyport dev` and `sallyport demo` need nothing beside it.
package examples

import "embed"

// FS holds:
//
//	models/<name>/model.yaml             the model's manifest
//	models/<name>/<version>/model.onnx   an artefact
//	data/<set>-holdout.csv               rows that no model was trained on; the
//	                                     last column, label, is the truth
//	vectors/<name>/<version>.csv         what scikit-learn answers to those
//	                                     rows, in their order: its label, then
//	                                     its probability of each class in
//	                                     float64
//
// The set of breast-cancer is breast-cancer, of digits digits and of
// ticket-routing tickets. models is a whole model repository.
//
//go:embed models data vectors
var FS embed.FS
