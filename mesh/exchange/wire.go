package exchange

import (
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// The stream protocols, see the package comment.
const (
	RecordsID protocol.ID = "/meshproxy/records/1"
	PushID    protocol.ID = "/meshproxy/push/1"
	FilesID   protocol.ID = "/meshproxy/files/1"
	ClaimID   protocol.ID = "/meshproxy/claim/1"
	AnswersID protocol.ID = "/meshproxy/answers/1"
)

// Limits of messages, in bytes unless said otherwise.
const (
	maxRequest      = 1 << 20                          // recordsRequest, answersRequest, claimRequest
	maxNames        = 4096                             // names or keys in one request
	maxEnvelope     = verify.MaxRecord                 // a signed record
	maxEntry        = maxEnvelope + 64<<10             // recordsEntry, pushRecord, pushReply
	maxRelated      = 2048                             // names in the last recordsEntry
	maxNear         = 1024                             // of them, those that came about when the ones handed over did
	maxHolders      = 16                               // peers named as holders of one file
	maxPush         = 1024                             // records on one push stream
	maxPeerID       = 64                               // a peer ID
	maxOpen         = 8<<10 + maxHolding               // filesOpen, filesOpened
	maxBases        = 8                                // listings offered as dictionaries
	maxWant         = 1024                             // files in one filesWant
	maxWantMsg      = 8 << 10                          // filesWant
	maxBundled      = 512                              // files in one bundle
	maxBundle       = 512 << 10                        // their contents together
	maxBundledFile  = 16 << 10                         // one of them
	maxBundledRaw   = 1 << 10                          // and its raw stream
	maxHead         = 128 + maxHolding + 10*maxBundled // fileHead
	maxHolding      = maxHave + 2<<10                  // holding
	maxLead         = 32 << 10                         // raw streams that follow a listing unasked
	maxLeadLines    = 64                               // and their number
	maxListingFrame = verify.MaxListing + 1<<10        // zstd frame of a listing
	maxDiffed       = 2 << 20                          // a file that travels as a difference, and the one that it differs from
	minDiffed       = 128                              // raw stream of such a file: shorter ones do not pay
	maxKey          = 4 << 10                          // key of an answer or of a claim
	maxAnswer       = 4 << 20                          // value of an answer: a list of versions, a database lookup
	maxText         = 1 << 10                          // reason given with refused or failed
	maxClaim        = maxEntry + maxText               // claimReply, claimReport: they may carry a record or an answer
)

// wireName is a verify.Name as an array: path, version, kind.
type wireName struct {
	_       struct{} `cbor:",toarray"`
	Path    string
	Version string
	Kind    string
}

func toWire(n verify.Name) wireName {
	return wireName{Path: n.Module.Path, Version: n.Module.Version, Kind: string(n.Kind)}
}

// name checks what the peer sent and returns it as a verify.Name.
func (w wireName) name() (verify.Name, error) {
	n := verify.Name{Module: module.Version{Path: w.Path, Version: w.Version}, Kind: verify.Kind(w.Kind)}
	if err := n.Check(); err != nil {
		return verify.Name{}, fmt.Errorf("name in a peer's message: %w", err)
	}
	return n, nil
}

type recordsRequest struct {
	Full    []wireName `cbor:"1,keyasint,omitempty"`
	Brief   []wireName `cbor:"2,keyasint,omitempty"`
	Related bool       `cbor:"3,keyasint,omitempty"`
	Holding bool       `cbor:"4,keyasint,omitempty"` // the asker holds the bytes of all in Brief
	Trace   string     `cbor:"5,keyasint,omitempty"` // what the question is for, see joinTrace
	Near    bool       `cbor:"6,keyasint,omitempty"` // with Related: also what came when those did
	// Known are the digests that the asker has of the names in Brief, of which it only
	// wants to hear whether they are the same: no entry but the last comes, with Same.
	Known [][]byte `cbor:"7,keyasint,omitempty"`
}

type recordsEntry struct {
	Brief    bool       `cbor:"1,keyasint,omitempty"` // Index counts in Brief, else in Full
	Index    uint32     `cbor:"2,keyasint"`
	Digest   []byte     `cbor:"3,keyasint,omitempty"` // of the record known; empty if none is
	Envelope []byte     `cbor:"4,keyasint,omitempty"`
	Held     bool       `cbor:"5,keyasint,omitempty"` // the answerer has the bytes
	Holders  [][]byte   `cbor:"6,keyasint,omitempty"`
	Fetching []byte     `cbor:"7,keyasint,omitempty"`
	Related  []wireName `cbor:"8,keyasint,omitempty"`
	End      bool       `cbor:"9,keyasint,omitempty"`
	Same     []byte     `cbor:"10,keyasint,omitempty"` // to Known: it is the same of name n if bit n%8 of byte n/8 is set
}

type pushRecord struct {
	Envelope []byte `cbor:"1,keyasint"`
	Held     bool   `cbor:"2,keyasint,omitempty"`
}

// PushStatus is what a peer did with a record pushed to it.
type PushStatus uint8

// Statuses of a push. The zero value is not sent.
const (
	PushAccepted PushStatus = iota + 1 // it was new and is kept now
	PushKnown                          // the same statement was there already
	PushRefused                        // it does not check, or this peer keeps nothing for others
	PushConflict                       // another digest for the same name was there first
)

type pushReply struct {
	Status   PushStatus `cbor:"1,keyasint"`
	Envelope []byte     `cbor:"2,keyasint,omitempty"` // PushConflict: the record that was first
}

type filesOpen struct {
	Path    string   `cbor:"1,keyasint"`
	Version string   `cbor:"2,keyasint"`
	Root    []byte   `cbor:"3,keyasint"`
	Class   Class    `cbor:"4,keyasint,omitempty"`
	Listing bool     `cbor:"5,keyasint,omitempty"`
	Bases   [][]byte `cbor:"6,keyasint,omitempty"`
	Trace   string   `cbor:"7,keyasint,omitempty"`
	Diffs   bool     `cbor:"8,keyasint,omitempty"`  // files may come as differences from those of one of Bases
	Bundles bool     `cbor:"9,keyasint,omitempty"`  // small files may come together
	Lead    uint64   `cbor:"10,keyasint,omitempty"` // bytes of the first files that may follow the listing unasked
}

type filesStatus uint8

const (
	filesReady   filesStatus = iota + 1
	filesAbsent              // the answerer does not hold this release
	filesBusy                // too much to do; ask another holder
	filesPartial             // it holds the listing and some of the files
)

type filesOpened struct {
	Status filesStatus `cbor:"1,keyasint"`
	Size   uint64      `cbor:"2,keyasint,omitempty"` // of the listing
	Frame  uint64      `cbor:"3,keyasint,omitempty"` // of the zstd frame that follows
	Base   []byte      `cbor:"4,keyasint,omitempty"` // root of the release whose listing, and whose files, are dictionaries

	Holding *holding `cbor:"5,keyasint,omitempty"`
	Lead    uint32   `cbor:"6,keyasint,omitempty"` // lines, from the first on, that follow the listing
}

type filesWant struct {
	Files  []uint32 `cbor:"1,keyasint"`
	Offset uint64   `cbor:"2,keyasint,omitempty"` // into the raw stream of the first
	Tell   bool     `cbor:"3,keyasint,omitempty"` // what the answerer has by now, before these files
	Whole  bool     `cbor:"4,keyasint,omitempty"` // none of these as a difference
}

type fileHead struct {
	Index   uint32 `cbor:"1,keyasint"`
	Missing bool   `cbor:"2,keyasint,omitempty"`
	Method  uint16 `cbor:"3,keyasint,omitempty"`
	CRC32   uint32 `cbor:"4,keyasint,omitempty"`
	Packed  uint64 `cbor:"5,keyasint,omitempty"` // length of the whole raw stream, or of the frame
	Size    uint64 `cbor:"6,keyasint,omitempty"` // inflated

	Holding *holding `cbor:"7,keyasint,omitempty"` // the answer to Tell: no file follows

	// From is not 0 when a zstd frame follows in place of the raw stream, with the file
	// in line From-1 of the base's listing as its dictionary.
	From uint32 `cbor:"8,keyasint,omitempty"`

	// Lines and Sizes are not empty when a bundle follows: one zstd frame of Packed bytes
	// with the contents of these lines, one after the other.
	Lines []uint32 `cbor:"9,keyasint,omitempty"`
	Sizes []uint32 `cbor:"10,keyasint,omitempty"`
}

type claimRequest struct {
	Name     *wireName `cbor:"1,keyasint,omitempty"`
	Key      string    `cbor:"2,keyasint,omitempty"`
	MaxAge   uint64    `cbor:"3,keyasint,omitempty"` // seconds; an answer younger than this will do
	Fetching bool      `cbor:"4,keyasint,omitempty"` // the asker lost the home peer that told it to fetch
	Tried    [][]byte  `cbor:"5,keyasint,omitempty"` // holders that the asker could not get it from
	// Unreached are nearer members that the asker could not claim at.
	Unreached [][]byte `cbor:"6,keyasint,omitempty"`
	Trace     string   `cbor:"7,keyasint,omitempty"`
	Probe     bool     `cbor:"8,keyasint,omitempty"` // no claim: only say whether the answerer fetches it, or has it
}

type claimState uint8

// States of a claim on the wire. The first three and nearer are said by the
// answerer only, alive by the fetcher only, who also says it when it is probed; else
// it says ended then, or what it has.
const (
	claimWait     claimState = iota + 1
	claimFetch               // you fetch; the stream is the lease
	claimEnded               // the report was taken
	claimAlive               // still fetching
	claimHolders             // done: these peers have it, and this is the record
	claimAnswer              // done: this is the answer
	claimRefused             // done: upstream says that there is none
	claimFailed              // nobody could fetch it
	claimNearer              // Holders has one member, which is nearer to the key and connected to the answerer
	claimDeclined            // the answerer does not speak of this module with the asker; go to the next home peer
)

type claimReply struct {
	State    claimState `cbor:"1,keyasint"`
	Envelope []byte     `cbor:"2,keyasint,omitempty"`
	Holders  [][]byte   `cbor:"3,keyasint,omitempty"`
	Value    []byte     `cbor:"4,keyasint,omitempty"`
	At       int64      `cbor:"5,keyasint,omitempty"` // Unix seconds of the answer
	Code     uint16     `cbor:"6,keyasint,omitempty"` // HTTP status of a refusal
	Text     string     `cbor:"7,keyasint,omitempty"`
	Fetcher  []byte     `cbor:"8,keyasint,omitempty"` // wait: who fetches
	Progress uint64     `cbor:"9,keyasint,omitempty"` // alive, to a probe
}

type claimReport struct {
	State    claimState `cbor:"1,keyasint"`
	Progress uint64     `cbor:"2,keyasint,omitempty"`
	Envelope []byte     `cbor:"3,keyasint,omitempty"`
	Value    []byte     `cbor:"4,keyasint,omitempty"`
	At       int64      `cbor:"5,keyasint,omitempty"`
	Code     uint16     `cbor:"6,keyasint,omitempty"`
	Text     string     `cbor:"7,keyasint,omitempty"`
}

type answersRequest struct {
	Keys  []string `cbor:"1,keyasint"`
	Trace string   `cbor:"2,keyasint,omitempty"`
}

type answersEntry struct {
	Index uint32 `cbor:"1,keyasint"`
	Value []byte `cbor:"2,keyasint,omitempty"`
	At    int64  `cbor:"3,keyasint,omitempty"`
	End   bool   `cbor:"4,keyasint,omitempty"`
}

var encMode = func() cbor.EncMode {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic("cbor encoding options: " + err.Error()) // constants
	}
	return mode
}()

var decMode = func() cbor.DecMode {
	mode, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  4,
		MaxArrayElements: maxNames,
		MaxMapPairs:      16,
		UTF8:             cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		panic("cbor decoding options: " + err.Error()) // constants
	}
	return mode
}()

// encode writes one message, without its length.
func encode(v any) ([]byte, error) { return encMode.Marshal(v) }

// decode reads one message, which must fill data exactly.
func decode(data []byte, v any) error { return decMode.Unmarshal(data, v) }

// digestOf reads a digest from a message.
func digestOf(b []byte) (verify.Digest, error) {
	var d verify.Digest
	if len(b) != len(d) {
		return d, fmt.Errorf("digest of %d bytes in a peer's message: want %d", len(b), len(d))
	}
	copy(d[:], b)
	return d, nil
}

// peersOf reads peer IDs from a message; at most maxHolders of them count, and
// those that are none are left out.
func peersOf(raw [][]byte) []peer.ID {
	var ids []peer.ID
	for _, b := range raw[:min(len(raw), maxHolders)] {
		if id, ok := peerOf(b); ok {
			ids = append(ids, id)
		}
	}
	return ids
}

func peerOf(b []byte) (peer.ID, bool) {
	if len(b) == 0 || len(b) > maxPeerID {
		return "", false
	}
	id, err := peer.IDFromBytes(b)
	return id, err == nil
}

func rawPeers(ids []peer.ID) [][]byte {
	var raw [][]byte
	for _, id := range ids[:min(len(ids), maxHolders)] {
		raw = append(raw, []byte(id))
	}
	return raw
}

// maxUnix keeps times from peers within what every encoding of them can express
// (the year 9999).
const maxUnix = 253402300799

// timeOf reads Unix seconds from a message.
func timeOf(sec int64) time.Time {
	return time.Unix(max(0, min(sec, maxUnix)), 0).UTC()
}
