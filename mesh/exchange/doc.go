// Package exchange is what members of a mesh say to each other about modules:
// who has a release, who is fetching it, and its bytes, file by file.
//
// It promises that nothing it returns depends on a peer's honesty for being
// whole: a record carries its signer's signature, a listing hashes to its root,
// a file to its line in the listing, and whatever does not is dropped, with the
// peer that sent it remembered. It promises that each wait ends with its
// context or with a named time limit, and that each byte read has a named limit.
// It does not promise that a record is true: who may vouch for what is package
// verify's business, and the caller's to ask.
//
// # Wire
//
// Five stream protocols over libp2p, for members only. A message is a CBOR
// value (RFC 8949, core deterministic encoding, integer keys, no duplicate keys,
// no tags, no indefinite lengths) behind its length as an unsigned varint. A
// receiver knows the largest size of the message it waits for, and resets the
// stream on anything longer, on anything that does not decode, and on silence.
// Unknown keys are ignored, so fields can be added; a change of meaning is a new
// protocol number. Streams are opened by the asker and closed by the answerer
// unless said otherwise.
//
// Home peers of a text are the members whose DHT keys (SHA-256 of the peer ID)
// are nearest, by XOR, to the SHA-256 of the text. For a release the text is
// "path@version", the same for its three files; for other answers it is the key.
//
// ## /meshproxy/records/1: who has these?
//
//	asker    recordsRequest   names to be answered with the record, names to be
//	                          answered in brief, whether related go.mod files
//	                          are wanted, those that came when others did too,
//	                          and whether the asker holds the files named in
//	                          brief; at most maxRequest bytes and
//	                          maxNames names
//	answerer recordsEntry*    one for each name that it knows anything about, in
//	                          any order; each at most maxEntry bytes
//	answerer recordsEntry     with End set, which may carry names of go.mod files
//	                          that those handed over require, directly or not,
//	                          and that the answerer holds: at most maxRelated;
//	                          before them at most maxNear that came to it about
//	                          when the first of those did
//
// An offer is a request that names digests as well, of the names in brief: then no
// entry comes but the last, with a bit for each name of which the answerer has a record
// with the same digest. What is left is pushed.
//
// A brief entry has the digest, whether the answerer holds the file, which other
// holders it knows of (maxHolders) and who holds the claim on it; a full entry
// has the record's signed envelope as well.
//
// ## /meshproxy/push/1: keep these
//
//	asker    pushRecord*      a signed envelope of at most maxEnvelope bytes and
//	                          whether the asker holds the file; maxPush of them
//	answerer pushReply        one for each, in order: accepted, known, refused,
//	                          or conflict, the last with the envelope that the
//	                          answerer already has
//
// The asker closes its side after the last record.
//
// ## /meshproxy/files/1: bytes of one release
//
//	asker    filesOpen        module, version, root, class of traffic, whether
//	                          the listing is wanted, roots of releases that the
//	                          asker has (maxBases), and whether files may come as
//	                          differences from those of one of them; how many bytes
//	                          of its first files may follow the listing unasked
//	answerer filesOpened      status; what it has and who else fetches it there; if
//	                          the listing is wanted, its size and the size of its
//	                          zstd frame; the base: which of the releases named
//	                          serves as a dictionary, of this frame and of files;
//	                          how many files follow unasked
//	answerer                  the zstd frame, maxListingFrame at most
//	answerer fileHead         of each of these files, the first lines of the listing in
//	                          order: maxLeadLines and maxLead bytes at most, none
//	                          while others fetch the release here
//	answerer                  its raw stream
//
// and then, any number of times, several requests outstanding at once:
//
//	asker    filesWant        indices of lines in the listing, maxWant at most;
//	                          for the first one, an offset into its raw stream;
//	                          whether to tell what the answerer has by now;
//	                          whether none of them shall be a difference
//	answerer fileHead         if so: only that, before the files
//	answerer fileHead         of a bundle, any number of times and if the asker's
//	                          filesOpen says that it takes such: lines and sizes
//	                          of maxBundled small files of those asked for
//	answerer                  one zstd frame with the contents of these
//	answerer fileHead         for each of the others, in the order asked: index,
//	                          method, CRC-32, both sizes; or Missing
//	answerer                  the raw stream from the offset on, CompressedSize
//	                          minus offset bytes; or, if the head names a line of
//	                          the base's listing, a zstd frame whose dictionary is
//	                          the content of that file
//
// The raw stream is the DEFLATE stream (or the stored bytes) as the answerer's
// zip had it; the asker inflates and hashes it before it keeps it. The asker
// closes its side when it wants no more. Holders of one root agree on the
// listing, so an index means the same file to all of them.
//
// Which file a difference is from is the answerer's choice among those of the base; it
// is one that both have. Neither of the two is larger than maxDiffed, and the frame is
// shorter than the raw stream would be. An asker that has lost the other file asks
// again for the whole; a frame that does not make the file that the listing names is a
// lie of whoever sent it. So is a bundle in which one file is not what it should be,
// and nothing of it is kept. The asker keeps what it makes of frames as DEFLATE streams
// of its own. It takes bundles from those only that are not near, because they cost
// more processor time than they save of a fast line.
//
// What an answerer has is all, or a set of lines while it is fetching itself. Those
// who fetch a release at the same time are named to each other, maxHolders at a time,
// and get from each other what each has verified.
//
// ## /meshproxy/claim/1: who shall fetch this?
//
//	asker    claimRequest     a name of a file, or another key; how old an answer
//	                          may be; whether the asker is already fetching;
//	                          holders that it tried in vain (maxHolders); nearer
//	                          members that it could not claim at (maxHolders);
//	                          or whether this is a probe and no claim
//	answerer claimReply*      wait (repeated every heartbeat, with who fetches),
//	                          fetch, holders,
//	                          answer, refused, failed, nearer: go there, or
//	                          declined: go to the next home peer
//	asker    claimReport*     after fetch: alive (repeated every heartbeat, with
//	                          a counter of progress), then done, answer, refused
//	                          or failed
//	answerer claimReply       ended: the report was taken
//
// The open stream is the lease: it ends with a report, with the stream, when no
// heartbeat arrives for leaseTimeout, or when the counter stands still for the
// time that Config.Stall says; then the next waiter is told to fetch. A waiter
// that hears nothing for leaseTimeout goes to the next home peer. So does one that
// finds nobody who fetches: from firstDoubt on it probes the fetcher that it is told
// of, who answers a probe with alive and its counter of progress, with what it has, or
// with ended.
//
// ## /meshproxy/answers/1: what do you know of these keys?
//
//	asker    answersRequest   keys; maxRequest bytes, maxNames keys
//	answerer answersEntry*    key, value and time; maxAnswer bytes of value
//	answerer answersEntry     with End set
//
// The first message of records, files, claim and answers may carry, under its last
// key, the W3C traceparent (version 00, maxTrace bytes) of what it is for, so that an
// answerer that traces makes its part of the same trace. Anything else there is
// ignored, and nothing follows from it but a span.
//
// # Who may learn what
//
// Config.Share says which member may have, or learn anything of, which module. To
// one who may not, a module that is here is as one that is not: records and answers
// are not known, a release is absent, a listing is no dictionary, pushes are
// refused, a claim is declined. The asker's side asks Share too: a member that may
// not learn of a module is not asked about it, told of it, counted among its home
// peers or given a copy, and what not every member may know is not looked for in
// the DHT. A key's module is the text before its first space, or what a lookup in a
// checksum database is about.
//
// A file is asked for as a line of a listing that the asker may have, never by its
// digest alone. A file is a dictionary only as a line of a release that the asker may
// have as well, so that no answer tells whether another one is here.
//
// # Limits of a server
//
// Each protocol has a number of streams that one peer may have open and a number
// for all peers together; what comes above is reset at once. An asker has at most half
// as many open for answers and files, and what it wants beyond waits there. A stream that is
// neither read from nor written to for ioTimeout is reset; claims live by their
// heartbeats instead, and an asker of files may take wantTimeout to ask for more and
// sendTimeout to take more, since what it receives may be limited.
package exchange
