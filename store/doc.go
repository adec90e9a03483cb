// Package store keeps what an office has fetched: files, listings, release
// records, mutable answers, checksum-database tiles and the mesh's own state, in
// one Badger database.
//
// It promises:
//
//   - A release appears whole or not at all, after any crash. What Commit
//     acknowledged is synced to disk; commits at the same time share one sync.
//   - A file's content is kept once, as the raw stream that a zip had, however
//     many zips hold it. A zip is put together on reading, the same bytes each
//     time for the same streams, in memory that does not grow with its size.
//   - What is read is what was written: every value carries a checksum that also
//     covers its key. A value that fails it is ErrDamaged, is quarantined, and is
//     never returned.
//   - The first digest recorded for a name stays. A second is ErrConflict, and the
//     record that said it is kept as evidence.
//   - The accounting is changed by the transaction that changes what it counts.
//
// It does not judge records: whether a signer is to be believed is for the node,
// whose one door calls Commit. Bytes from anywhere enter through ScanZip, PutRaw
// and StageListing only, which check them against their digests.
//
// # Directory
//
// The store's directory holds badger, the database, with a file schema beside Badger's own that
// says the schema version once more; tmp, where large files wait to
// be checked, and zips that are often asked for stand whole; lock; open, which stands while the store is open; needs-repair, which
// asks the next Open for a repair and says why; and, while one is done, badger.new
// and badger.old.
//
// # Keyspace, schema version 1
//
// The first byte of a key is its keyspace; integers in keys are big endian, so
// that they sort; digest is 32 bytes; every value ends in 4 bytes, the CRC-32C of
// key and value. Integers in values are big endian too.
//
//	v                               schema version, uint32
//	a                               accounting, CBOR (Accounting)
//	e                               epoch, uint64: rises when a kept file's stream is replaced by another encoding, past the clock's microseconds
//	g                               number of the newest stream, uint64; on Open it goes on past the clock's microseconds
//	f digest                        file: flags 1, method 1, references uint32, CRC-32 uint32, stream size uint64, content size uint64, number of its stream uint64
//	d uint64 uint32                 chunk of the stream with that number, 1 MiB each but the last
//	q digest                        damage found in that file: unix seconds uint64, reason
//	i digest                        intent: root whose files are being referenced or released; how many of them are referenced, uint32
//	l digest uint32                 chunk of the listing with this root, 1 MiB each but the last
//	z digest                        zip that is held: epoch uint64, count uint32, for each file its method 1, CRC-32 uint32, stream and content size uvarint, stream number less the one before varint
//	u digest                        use of that zip: size uint64, committed and last read, unix seconds uint64
//	r path 0 version 0 kind         release record: digest, envelope
//	c path 0 version 0 kind 0 digest  conflict evidence: unix seconds uint64, envelope
//	t uint64                        arrival of a module version, unix nanoseconds, rising: path 0 version
//	p pattern                       pin: unix seconds uint64
//	m key                           mutable answer: unix nanoseconds uint64, value
//	s key                           checksum database cache: value
//	n key                           state of other packages: value
//	k prefix 0 key                  datastore of that prefix: value
//	x uint32                        filler, written and deleted to have Badger flush its memory
//
// Streams have numbers, given in the order in which they come, so that the files
// of a zip, which come together, stand together and are read in one go.
//
// Badger may lose keys (see docs/architecture.md). Open makes up for v, a, e and g,
// which stand alone: see restoreSchema, recount, nextEpoch and firstNumber. Any other key is
// found missing by what leads to it.
//
// A file has a reference for each root that is held or staged and whose listing
// names it; a file without a reference does not exist. A reference taken before a
// crash and not committed is known by its intent and given back on Open.
package store
