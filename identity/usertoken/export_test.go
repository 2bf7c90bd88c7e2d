package usertoken

// Forget empties the cache.
func (v *Verifier) Forget() { v.cache = cache{} }

// Cached is how many tokens are remembered.
func (v *Verifier) Cached() int { return len(v.cache.entries) }

// MaxCached is how many may be.
const MaxCached = maxCached

// NewClient is what keys are fetched with.
var NewClient = newClient
