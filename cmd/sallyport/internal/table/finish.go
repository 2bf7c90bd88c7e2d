package table

import (
	"bufio"
	"errors"
	"io"
	"os"

	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet"
	"github.com/apache/arrow-go/v18/parquet/compress"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
)

// groupRows is how many rows a row group of Parquet has, of which one is in memory
// at a time.
const groupRows = 1 << 17

// Finish writes what has grown, with its End, as a table of the format. It is only
// needed where that is another than Growing.
func Finish(w *os.File, grown io.Reader, format Format) (err error) {
	defer recovered(&err)
	r, err := ipc.NewReader(bufio.NewReaderSize(grown, 1<<16))
	if err != nil {
		return err
	}
	defer r.Release()
	if format == FormatArrow {
		buffered := bufio.NewWriterSize(w, 1<<16)
		out, err := ipc.NewFileWriter(buffered, ipc.WithSchema(r.Schema()))
		if err != nil {
			return err
		}
		for r.Next() {
			if err := out.Write(r.RecordBatch()); err != nil {
				return err
			}
		}
		return errors.Join(readError(r), out.Close(), buffered.Flush())
	}
	// The schema of Arrow beside that of Parquet lets types come back as they were.
	out, err := pqarrow.NewFileWriter(r.Schema(), noClose{w},
		parquet.NewWriterProperties(parquet.WithCompression(compress.Codecs.Snappy), parquet.WithMaxRowGroupLength(groupRows)),
		pqarrow.NewArrowWriterProperties(pqarrow.WithStoreSchema(), pqarrow.WithAllocator(memory.DefaultAllocator)))
	if err != nil {
		return err
	}
	for r.Next() {
		if err := out.WriteBuffered(r.RecordBatch()); err != nil {
			return err
		}
	}
	return errors.Join(readError(r), out.Close())
}

func readError(r *ipc.Reader) error {
	if err := r.Err(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// noClose leaves the file open, which the library would close.
type noClose struct{ io.Writer }
