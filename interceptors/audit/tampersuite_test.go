package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/sallyport/sallyport/interceptors/audit"
)

// manipulation is one of a log at rest.
type manipulation struct {
	name string
	// tamper changes the scene's log and tells what is to be named.
	tamper func(t *testing.T, s *scene) place
	// segments is how many the log must have.
	segments int
	// records is how many it must have.
	records uint64
	// shows tells what it takes to find it.
	shows shows
}

type shows int

const (
	byItself shows = iota
	// with the public key from elsewhere; what the directory lists was replaced too.
	withKey
	// with a checkpoint from elsewhere; nothing in the directory contradicts it.
	withCheckpoint
)

// recordsEnv adds a log of so many records to the suite, for example 1000000.
const recordsEnv = "SALLYPORT_AUDIT_RECORDS"

func TestTamperSuite(t *testing.T) {
	manipulations := slices.Concat(byteManipulations, recordManipulations, forgedManipulations,
		cutManipulations, segmentManipulations, checkpointManipulations, logManipulations, retentionManipulations)
	sizes := []struct {
		records      int
		segmentBytes int64
	}{{1, 0}, {1_000, 64 << 10}}
	if env := os.Getenv(recordsEnv); env != "" {
		n, err := strconv.Atoi(env)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, struct {
			records      int
			segmentBytes int64
		}{n, 0})
	}
	for _, size := range sizes {
		t.Run(strconv.Itoa(size.records), func(t *testing.T) {
			original := newScene(t, size.records, size.segmentBytes)
			untouched(t, original)
			tried := 0
			for _, m := range manipulations {
				if len(original.firsts) < m.segments || original.records < m.records {
					continue // there is no such thing in so small a log
				}
				tried++
				t.Run(m.name, func(t *testing.T) {
					s := original.copyOf(t)
					want := m.tamper(t, s)
					found(t, s, m.shows, want)
				})
			}
			const least = 25
			t.Logf("%d manipulations of a log of %d records in %d segments", tried, size.records, len(original.firsts))
			if tried < least {
				t.Errorf("%d manipulations, want at least %d", tried, least)
			}
			untouched(t, original)
		})
	}
}

// untouched asserts that the log verifies, by every means, and says how fast.
func untouched(t *testing.T, s *scene) {
	t.Helper()
	start := time.Now()
	report, err := audit.Verify(s.dir, audit.VerifyConfig{PublicKeys: []string{public}, Checkpoints: [][]byte{s.outside}})
	if err != nil || report.Records != s.records || report.Given != 1 || report.Uncovered() != 0 {
		t.Fatalf("the untouched log: %+v, %v", report, err)
	}
	took := time.Since(start)
	t.Logf("verified %d records in %v, %.0f records/s", report.Records, took, float64(report.Records)/took.Seconds())
}

// found asserts that Verify names the place, once it has what it takes.
func found(t *testing.T, s *scene, by shows, want place) {
	t.Helper()
	cfg := audit.VerifyConfig{}
	if by != byItself {
		if _, err := audit.Verify(s.dir, cfg); err != nil {
			t.Errorf("found by itself: %v; it should take more", err)
		}
	}
	switch by {
	case byItself:
	case withKey:
		cfg.PublicKeys = []string{public}
	case withCheckpoint:
		cfg.Checkpoints = [][]byte{s.outside}
	}
	named(t, s.dir, cfg, want)
}

func named(t *testing.T, dir string, cfg audit.VerifyConfig, want place) {
	t.Helper()
	_, err := audit.Verify(dir, cfg)
	var tampered *audit.TamperError
	if !errors.As(err, &tampered) {
		t.Fatalf("Verify: %v, want a TamperError", err)
	}
	if got := (place{filepath.Base(tampered.File), tampered.Sequence, tampered.Through}); got != want {
		t.Errorf("Verify names %v (%v), want %v", got, tampered, want)
	}
}
