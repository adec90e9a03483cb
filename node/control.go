package node

import (
	"context"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store"
)

// Control is what an operator can ask of an office. A running Node answers it
// itself, Client passes it to the node that serves a data directory, and Offline
// answers from the store of one that does not run.
type Control interface {
	Status(ctx context.Context) (*Status, error)
	// Peers lists every office that this one knows of, itself left out.
	Peers(ctx context.Context) ([]Peer, error)
	// Releases calls each for every module version whose path is prefix or below
	// it, in order of path and version; an empty prefix is every one.
	Releases(ctx context.Context, prefix string, each func(Release) error) error
	// Invite makes a token that lets one more office in.
	Invite(ctx context.Context, inv Invitation) (token string, err error)
	// Invitations lists the invitations that are remembered, newest first, and
	// Withdraw ends one, by its ID.
	Invitations(ctx context.Context) ([]OpenInvitation, error)
	Withdraw(ctx context.Context, id string) error
	// Join enrols this office with a token. Leave takes it out of its mesh again.
	Join(ctx context.Context, token string) (*Joined, error)
	Leave(ctx context.Context) error
	// Revoke takes out a member, by peer ID, or all of an office, and returns who is
	// out.
	Revoke(ctx context.Context, r Revocation) ([]string, error)
	// Rotate gives the mesh a new key, without these members.
	Rotate(ctx context.Context, without []string) error
	// ExportKeys returns what makes this node the office that it is, as text; see
	// mesh.ExportKeys. ImportKeys puts it back.
	ExportKeys(ctx context.Context, passphrase string) (string, error)

	// Doctor checks the node from end to end.
	Doctor(ctx context.Context) ([]Finding, error)
	// Conflicts lists the contents that were refused because another one was there
	// first, or a database signed two histories.
	Conflicts(ctx context.Context) ([]Conflict, error)
	// Trust pins what a go.sum file says and returns how many pins are new. One that
	// disagrees with an earlier one is an error, and nothing is pinned. Trusted lists
	// the pins, and Distrust drops those of a module version.
	Trust(ctx context.Context, sums GoSum) (int, error)
	Trusted(ctx context.Context) ([]Trusted, error)
	Distrust(ctx context.Context, m module.Version) (int, error)
	// Proof writes down who vouches for a file, for CheckProof anywhere else.
	Proof(ctx context.Context, q ProofQuery) (*Proven, error)

	// Pin keeps zips from being dropped; Unpin takes the pattern back; Pinned lists
	// the patterns.
	Pin(ctx context.Context, pattern string) error
	Unpin(ctx context.Context, pattern string) error
	Pinned(ctx context.Context) ([]string, error)
	// GC drops zips, see store.GC; Verify reads everything, see store.Scrub.
	GC(ctx context.Context, o Limits, progress func(store.Progress)) (*Collected, error)
	Verify(ctx context.Context, progress func(store.Progress)) (*Verified, error)
	// Backup gives a copy of the store to write, piece by piece.
	Backup(ctx context.Context, write func(piece []byte) error) error

	Transfer
	Governance
	ReplicaLister
}

// Status is an office at a glance. Times are UTC, sizes bytes.
type Status struct {
	Running   bool      `json:"running"`
	Version   string    `json:"version,omitempty"`
	Started   time.Time `json:"started,omitzero"`
	Data      string    `json:"data"`
	URL       string    `json:"url,omitempty"` // what GOPROXY is set to
	PeerID    string    `json:"peer_id,omitempty"`
	Mesh      string    `json:"mesh,omitempty"`
	Office    string    `json:"office,omitempty"`
	Role      string    `json:"role,omitempty"`
	P2P       []string  `json:"p2p,omitempty"` // multiaddrs that other offices can dial, with the peer ID
	Upstreams []string  `json:"upstreams,omitempty"`
	SumDB     []string  `json:"sumdb,omitempty"`
	Known     int       `json:"members_known"` // other members
	Connected int       `json:"members_connected"`
	Store     Holdings  `json:"store"`
	Served    []Served  `json:"served,omitempty"`
	Errors    uint64    `json:"errors"`   // answers that were none
	Rejected  uint64    `json:"rejected"` // answers as of a checksum database that did not check
	Conflicts int       `json:"conflicts"`
	Alarms    []string  `json:"alarms,omitempty"` // what an operator must act on
	Upkeep    Upkeep    `json:"upkeep"`
}

// Holdings says how much an office holds.
type Holdings struct {
	Releases int   `json:"releases"`      // module versions of which at least one file is held
	Zips     int   `json:"zips"`          // distinct ones
	Files    int   `json:"files"`         // distinct contents
	Shared   int   `json:"shared_files"`  // of Files, those in more than one zip
	Logical  int64 `json:"logical_bytes"` // the zips as they are served, each by itself
	Stored   int64 `json:"stored_bytes"`  // files and records, each once
	Saved    int64 `json:"shared_bytes"`  // of Stored, files in more than one zip
	Disk     int64 `json:"disk_bytes"`    // of the store's files on disk
}

// Upkeep says how an office keeps its store small and whole. Limits are those of a
// running node; what happened is since it started.
type Upkeep struct {
	MaxSize   int64         `json:"max_size,omitempty"` // bytes of files above which zips are dropped
	MaxAge    time.Duration `json:"max_age_ns,omitempty"`
	ScrubRate int64         `json:"scrub_rate,omitempty"` // bytes a second; negative: not at all
	Pins      int           `json:"pins"`                 // patterns
	Damaged   int           `json:"damaged"`              // files in quarantine
	Scrubbing bool          `json:"scrubbing"`
	Scrubbed  time.Time     `json:"scrubbed,omitzero"` // when everything was last read and hashed
	Found     int           `json:"scrub_found"`       // damaged by that
	Lost      int           `json:"lost"`              // keys that were lost and put back when the store was opened; zero once everything was read
	Collected time.Time     `json:"collected,omitzero"`
	Dropped   int           `json:"dropped"`     // zips, by the last gc
	Kept      int           `json:"kept"`        // by it, as perhaps the last copies in the mesh
	Freed     int64         `json:"freed_bytes"` // by it
}

// Served counts what came from one source since the start.
type Served struct {
	Source  string `json:"source"` // "store", "peer NAME", "upstream NAME"
	Answers uint64 `json:"answers"`
	Bytes   int64  `json:"bytes"`
}

// Peer is another office as this one sees it.
type Peer struct {
	ID        string        `json:"id"`
	Office    string        `json:"office"`
	Role      string        `json:"role"`
	Connected bool          `json:"connected"`
	How       string        `json:"how,omitempty"` // direct, relayed, LAN
	RTT       time.Duration `json:"rtt_ns,omitempty"`
	Addr      string        `json:"addr,omitempty"`
	Seen      time.Time     `json:"seen,omitzero"`
	Expires   time.Time     `json:"expires,omitzero"`
	Lies      int           `json:"lies,omitempty"` // what it sent that did not check, within a day
	Received  int64         `json:"received"`       // bytes of zips that came from it since this node started
	// Zips is how many zips it said last that it holds, those left out that not every
	// member may know of. Nil: it has not said.
	Zips *uint32 `json:"zips,omitempty"`
}

// Release is one module version as ls shows it.
type Release struct {
	module.Version
	Files   []string  `json:"files"` // of info, mod and zip, those held
	H1      string    `json:"h1,omitempty"`
	Size    int64     `json:"size"` // of what is held, unpacked
	Fetched time.Time `json:"fetched"`
	Office  string    `json:"office"`
	Source  string    `json:"source"`
	Vouched string    `json:"vouched"`
}

// Invitation says whom a token lets in.
type Invitation struct {
	Role   string        `json:"role"`   // member or admin
	Office string        `json:"office"` // the name that the newcomer gets; empty lets it choose
	TTL    time.Duration `json:"ttl"`
	Uses   int           `json:"uses"`
}

// Joined is the outcome of an enrolment.
type Joined struct {
	Mesh    string `json:"mesh"`
	Office  string `json:"office"`
	Role    string `json:"role"`
	Running bool   `json:"running"` // a running node was enrolled
}

// OpenInvitation is an invitation that was made.
type OpenInvitation struct {
	ID        string    `json:"id"`
	By        string    `json:"by"` // office
	Role      string    `json:"role"`
	Office    string    `json:"office"`
	Expires   time.Time `json:"expires"`
	Uses      int       `json:"uses"`
	Joined    []string  `json:"joined"` // peer IDs
	Withdrawn bool      `json:"withdrawn"`
}

// Revocation says who is to be out, and why.
type Revocation struct {
	Who    string `json:"who"` // peer ID or office
	Reason string `json:"reason"`
}

// Conflict is two contents for one name, or two histories of one database.
type Conflict struct {
	Name  string    `json:"name"`
	Kept  Statement `json:"kept"`
	Other Statement `json:"refused"`
	At    time.Time `json:"at,omitzero"`
}

// Statement is one side of a conflict.
type Statement struct {
	Digest   string    `json:"digest"`
	Office   string    `json:"office,omitempty"`
	Signer   string    `json:"signer,omitempty"`
	Source   string    `json:"source,omitempty"`
	Fetched  time.Time `json:"fetched,omitzero"`
	Evidence []byte    `json:"evidence,omitempty"` // the signed statement
}

// GoSum is a go.sum file.
type GoSum struct {
	Origin string `json:"origin"` // its name, for messages
	Text   []byte `json:"text"`
}

// Trusted is a pin.
type Trusted struct {
	Name   string `json:"name"`
	H1     string `json:"h1"`
	Origin string `json:"origin"`
}

// ProofQuery says which file a proof is for.
type ProofQuery struct {
	Module module.Version `json:"module"`
	Kind   string         `json:"kind"` // info, mod or zip; empty: all that are held
}

// Proven is who vouches for files, and the text that shows it.
type Proven struct {
	Files []Checked `json:"files"`
	Text  []byte    `json:"text"`
}

// Limits say what GC drops.
type Limits struct {
	MaxSize int64         `json:"max_size"` // bytes; 0: the node's own limit
	MaxAge  time.Duration `json:"max_age"`  // since last read; 0: the node's own limit
	DryRun  bool          `json:"dry_run"`
}

// Collected is what GC did.
type Collected struct {
	Dropped []Zip `json:"dropped"`
	Kept    []Zip `json:"kept"` // over the limits, but perhaps the last copies in the mesh
	Pinned  int   `json:"pinned"`
	Freed   int64 `json:"freed_bytes"`
	Disk    int64 `json:"disk_bytes"` // afterwards
}

// Zip is a zip that is, or was, held.
type Zip struct {
	module.Version
	Size int64     `json:"size"`
	Read time.Time `json:"read"`
}

// Verified is what Verify found.
type Verified struct {
	Files    int64     `json:"files"`
	Bytes    int64     `json:"bytes"`
	Problems []Problem `json:"problems"`
}

// Problem is something damaged. It is not served.
type Problem struct {
	File   string `json:"file"` // as in the listing of a module, or what else it is
	Reason string `json:"reason"`
	Healed bool   `json:"healed"`
	Note   string `json:"note,omitempty"` // why it was not healed
}
