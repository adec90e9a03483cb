// Package modzip reads module zips that nobody vouches for yet, and writes the
// one zip that a node serves for a listing.
//
// Scan accepts a zip only if every byte of it is accounted for: local headers
// and central directory agree, entries follow each other without gap or overlap,
// names obey golang.org/x/mod/zip, and each stream inflates to exactly the size
// and CRC-32 that it declares, with no byte left. What it accepts is described by
// a Scanned: the listing, and for each file the raw stream as the zip has it.
//
// A Skeleton is the reverse: given names and raw streams it knows all headers and
// the offset of every byte, so that a zip of any size can be served from any
// offset, without compressing anything and without holding a file in memory. The
// same input gives the same bytes, on every machine.
//
// The package keeps nothing and starts no goroutine that outlives a call.
package modzip
