package store

import (
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// residentBytes is how much of the value logs may be touched, in bytes, before the
// process gives up the pages that it has of one.
const residentBytes = 8 << 20

// resident keeps down what Badger's memory maps add to the memory of the process.
// The pages are the system's cache of the files and stay there; what goes is their
// place in this process, which would otherwise grow with all that was ever read or
// written, and look, and be limited in a container, like memory that is in use.
type resident struct{ touched atomic.Int64 }

// mapped is the process's, as its memory is, however many stores it has open.
var mapped resident

// touch is told of a value that was read. The caller holds Badger's lock on the
// log that v stands in, as it does inside the callback of Item.Value: while it
// does, v's memory map stays.
func (r *resident) touch(v []byte) {
	// The system maps some pages around the one that is asked for.
	const around = 16 << 10
	if len(v) < valueThreshold || r.touched.Add(int64(len(v)+around)) < residentBytes {
		return
	}
	r.touched.Store(0)
	dropPages(v)
}

// wrote is told of a transaction that put bytes of values into the log, the last
// of them under the key k.
func (r *resident) wrote(db *badger.DB, k []byte, bytes int) {
	if r.touched.Add(int64(bytes)) < residentBytes {
		return
	}
	// To read one value is how to hold the log's lock; damage is for who wants it.
	_ = db.View(func(txn *badger.Txn) error {
		return viewValue(txn, k, func([]byte) error { return nil })
	})
}
