package table

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow/memory"
)

// maxBuffer is the most that one column of a record of an Arrow table may take: as
// much as the library lets all of them have that are not compressed.
const maxBuffer = 256 << 20

// bounded refuses buffers that no record should need. How long a compressed one is
// says the table itself, and what is broken may say anything; the library would ask
// the system for it, which ends the process.
type bounded struct{ memory.Allocator }

func (b bounded) Allocate(size int) []byte {
	checkBuffer(size)
	return b.Allocator.Allocate(size)
}

func (b bounded) Reallocate(size int, data []byte) []byte {
	checkBuffer(size)
	return b.Allocator.Reallocate(size, data)
}

// checkBuffer panics, which readers recover from: an allocator has no errors.
func checkBuffer(size int) {
	if size < 0 || size > maxBuffer {
		panic(fmt.Sprintf("a buffer of %d bytes, more than %d", size, maxBuffer))
	}
}
