package audit_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
)

// flip changes a bit of the victim's frame.
func flip(off int) func(*testing.T, *scene) place {
	return func(t *testing.T, s *scene) place {
		return s.inRecord(t, off, func(b []byte) { b[0] ^= 1 })
	}
}

// flipHeader changes a bit of the middle segment's header.
func flipHeader(off int) func(*testing.T, *scene) place {
	return func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(s.segment()), func(b []byte) []byte {
			at := off
			if at < 0 {
				at += headerOf(b)
			}
			b[at] ^= 1
			return b
		})
		return s.at(s.segment())
	}
}

// byteManipulations change what stands somewhere.
var byteManipulations = []manipulation{
	{name: "magic", tamper: flipHeader(0)},
	{name: "version", tamper: flipHeader(11)},
	{name: "first sequence in a header", tamper: flipHeader(19)},
	{name: "checksum of a header", tamper: flipHeader(-1)},
	{name: "tree in a header", segments: 2, tamper: flipHeader(25)},
	{name: "tree in a header, its checksum made to fit", segments: 2, tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(s.segment()), func(b []byte) []byte {
			b[25] ^= 1
			end := headerOf(b) - 4
			binary.BigEndian.PutUint32(b[end:], crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)))
			return b
		})
		return s.at(s.segment())
	}},
	{name: "length of a frame", tamper: flip(3)},
	{name: "length of a frame, its checksum made to fit", tamper: func(t *testing.T, s *scene) place {
		return s.inRecord(t, 0, func(b []byte) {
			binary.BigEndian.PutUint32(b, 1<<19)
			binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[:4], crc32.MakeTable(crc32.Castagnoli)))
		})
	}},
	{name: "checksum of a length", tamper: flip(7)},
	{name: "first byte of a record", tamper: flip(8)},
	{name: "byte inside a record", tamper: flip(40)},
	{name: "sequence in a record", tamper: flip(-33)},
	{name: "first byte of a leaf's hash", tamper: flip(-32)},
	{name: "last byte of a leaf's hash", tamper: flip(-1)},
	{name: "a frame made zeros", tamper: func(t *testing.T, s *scene) place {
		s.inFrames(t, func(f [][]byte, i int) [][]byte {
			clear(f[i])
			return f
		})
		return s.at(s.victim())
	}},
}

// recordManipulations move frames that are whole.
var recordManipulations = []manipulation{
	{name: "record dropped", tamper: func(t *testing.T, s *scene) place {
		s.inFrames(t, func(f [][]byte, i int) [][]byte { return slices.Delete(f, i, i+1) })
		return s.at(s.victim())
	}},
	{name: "record there twice", tamper: func(t *testing.T, s *scene) place {
		s.inFrames(t, func(f [][]byte, i int) [][]byte { return slices.Insert(f, i+1, f[i]) })
		return place{nameOf(s.segment()), s.victim() + 1, 0}
	}},
	{name: "record of another log put in", records: 2, tamper: func(t *testing.T, s *scene) place {
		foreign := s.foreign(t, s.victim())
		s.inFrames(t, func(f [][]byte, i int) [][]byte { return slices.Insert(f, i, foreign) })
		return place{nameOf(s.segment()), s.victim() + 1, 0}
	}},
	{name: "record replaced by one of another log", tamper: func(t *testing.T, s *scene) place {
		foreign := s.foreign(t, s.victim())
		s.inFrames(t, func(f [][]byte, i int) [][]byte {
			f[i] = foreign
			return f
		})
		return s.hashed(t, s.victim())
	}},
	{name: "records exchanged", records: 2, tamper: func(t *testing.T, s *scene) place {
		s.inFrames(t, func(f [][]byte, i int) [][]byte {
			f[i], f[i+1] = f[i+1], f[i]
			return f
		})
		return s.at(s.victim())
	}},
	{name: "record moved to the front", records: 2, tamper: func(t *testing.T, s *scene) place {
		s.inFrames(t, func(f [][]byte, i int) [][]byte {
			return slices.Insert(slices.Delete(slices.Clone(f), i, i+1), 0, f[i])
		})
		return s.at(s.segment())
	}},
	{name: "byte cut out of a record", tamper: func(t *testing.T, s *scene) place {
		s.inFrames(t, func(f [][]byte, i int) [][]byte {
			f[i] = slices.Delete(f[i], 20, 21)
			return f
		})
		return s.at(s.victim())
	}},
	{name: "byte put into a record", tamper: func(t *testing.T, s *scene) place {
		s.inFrames(t, func(f [][]byte, i int) [][]byte {
			f[i] = slices.Insert(f[i], 20, 'x')
			return f
		})
		return s.at(s.victim())
	}},
	{name: "record behind the end", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(s.last()), func(b []byte) []byte { return append(b, frames(b)[0]...) })
		return place{nameOf(s.last()), s.records + 1, 0}
	}},
	{name: "bytes behind the end", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(s.last()), func(b []byte) []byte { return append(b, bytes.Repeat([]byte("x"), 100)...) })
		return place{nameOf(s.last()), s.records + 1, 0}
	}},
}

// foreign is the frame of a record of the other log with the same sequence.
func (s *scene) foreign(t testing.TB, sequence uint64) []byte {
	t.Helper()
	o := &scene{dir: s.other}
	for _, file := range segmentFiles(t, s.other) {
		o.firsts = append(o.firsts, firstOf(t, file))
	}
	first := firstOf(t, s.other+"/"+o.at(sequence).file)
	return frames(o.read(t, nameOf(first)))[sequence-first]
}

// hashed is what is named of a record that was changed with a hash that fits: just
// that one if its segment's index still has the hash that was signed.
func (s *scene) hashed(t testing.TB, sequence uint64) place {
	t.Helper()
	p := s.among(t, sequence)
	if s.full(s.segment()) {
		p.sequence, p.through = sequence, 0
	}
	return p
}

// changed is a record that says something else.
func changed(record []byte) []byte {
	return bytes.Replace(record, []byte("clinic"), []byte("tavern"), 1)
}

// forgedManipulations are of somebody who has all but the key: hashes, headers and
// indexes fit.
var forgedManipulations = []manipulation{
	{name: "record changed, its hash made to fit", tamper: func(t *testing.T, s *scene) place {
		s.edit(t, nameOf(s.segment()), func(b []byte) []byte {
			f := frames(b)
			records := make([][]byte, len(f))
			for i := range f {
				records[i] = f[i][8 : len(f[i])-32]
			}
			i := s.victim() - s.segment()
			records[i] = changed(records[i])
			return rehash(b, records)
		})
		return s.hashed(t, s.victim())
	}},
	{name: "record changed, all but the indexes made to fit", tamper: func(t *testing.T, s *scene) place {
		s.forge(t, true, func(r [][]byte) [][]byte {
			r[s.victim()-1] = changed(r[s.victim()-1])
			return r
		})
		return s.hashed(t, s.victim())
	}},
	{name: "record changed, all made to fit", tamper: func(t *testing.T, s *scene) place {
		s.forge(t, false, func(r [][]byte) [][]byte {
			r[s.victim()-1] = changed(r[s.victim()-1])
			return r
		})
		return s.among(t, s.victim())
	}},
	{name: "first record changed, all made to fit", tamper: func(t *testing.T, s *scene) place {
		s.forge(t, false, func(r [][]byte) [][]byte {
			r[0] = changed(r[0])
			return r
		})
		return s.among(t, 1)
	}},
	{name: "last record changed, all made to fit", tamper: func(t *testing.T, s *scene) place {
		s.forge(t, false, func(r [][]byte) [][]byte {
			r[len(r)-1] = changed(r[len(r)-1])
			return r
		})
		return s.among(t, s.records)
	}},
	{name: "record dropped, all made to fit", tamper: func(t *testing.T, s *scene) place {
		s.forge(t, false, func(r [][]byte) [][]byte { return slices.Delete(r, int(s.victim())-1, int(s.victim())) })
		if s.records == 1 {
			return s.at(1) // which the checkpoint covers and is not there
		}
		return s.among(t, s.victim())
	}},
	{name: "record put in, all made to fit", tamper: func(t *testing.T, s *scene) place {
		s.forge(t, false, func(r [][]byte) [][]byte { return slices.Insert(r, int(s.victim())-1, changed(r[0])) })
		return s.among(t, s.victim())
	}},
	{name: "record there twice, all made to fit", records: 2, tamper: func(t *testing.T, s *scene) place {
		s.forge(t, false, func(r [][]byte) [][]byte { return slices.Insert(r, int(s.victim())-1, r[s.victim()-1]) })
		return s.among(t, s.victim()+1)
	}},
	{name: "records exchanged, all made to fit", records: 2, tamper: func(t *testing.T, s *scene) place {
		s.forge(t, false, func(r [][]byte) [][]byte {
			i := s.victim() - 1
			r[i], r[i+1] = r[i+1], r[i]
			return r
		})
		return s.among(t, s.victim())
	}},
	{name: "record replaced by one of another log, all made to fit", tamper: func(t *testing.T, s *scene) place {
		foreign := s.foreign(t, s.victim())
		s.forge(t, false, func(r [][]byte) [][]byte {
			r[s.victim()-1] = foreign[8 : len(foreign)-32]
			return r
		})
		return s.among(t, s.victim())
	}},
}
