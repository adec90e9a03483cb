package mesh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-msgio"

	"github.com/meshproxy/meshproxy/mesh/member"
)

// Sizes and times of the protocols. Those of hello and join bound what a
// stranger can make this node read and hold.
const (
	maxHello    = 64 << 10 // helloOpen, joinOpen, joinProof
	maxWelcome  = 64 << 10 // joinOffer, joinWelcome
	maxReply    = maxWelcome + member.MaxRotation
	maxSyncHave = 1 << 20  // syncOpen, syncHave
	maxSyncGive = 2 << 20  // syncGive
	giveBudget  = 1 << 20  // bytes of statements in one syncGive
	freshBudget = 32 << 10 // bytes of statements in one syncOpen
	maxGiven    = 8192     // elements in any list of a message

	helloTime = 10 * time.Second // hello or join, from first to last byte
	syncTime  = 30 * time.Second
)

// Addresses of members that are told along with statements.
const (
	maxHints     = 128 // members in one message that are told, and asked for; see peerBook.news
	heardHints   = 512 // members in one message that are taken
	maxHintAddrs = 8   // addresses of one member
	maxHintAddr  = 256 // bytes of one multiaddr
)

// Status answers a hello or a join.
type status uint8

const (
	statusOK status = iota
	statusRefused
	statusTokenExpired
	statusTokenUsed
	statusTokenRevoked
	statusRemoved
	statusBusy
	statusFull
	statusMoved
)

// Why a member does not let this node in.
var (
	// ErrRefused: the other side does not accept the credential or the token.
	ErrRefused = errors.New("refused by the member")
	// ErrRemoved: this node's identity was revoked; it needs a new one to join.
	ErrRemoved = errors.New("this node was revoked from the mesh")
	// ErrBusy: too many strangers knock at once.
	ErrBusy = errors.New("the member is busy; try again")
	// ErrMoved: the mesh key was rotated.
	ErrMoved = errors.New("the mesh has a new key")
)

var statusErrors = map[status]error{
	statusRefused:      ErrRefused,
	statusTokenExpired: member.ErrTokenExpired,
	statusTokenUsed:    member.ErrTokenUsed,
	statusTokenRevoked: member.ErrTokenRevoked,
	statusRemoved:      ErrRemoved,
	statusBusy:         ErrBusy,
	statusFull:         member.ErrFull,
	statusMoved:        ErrMoved,
}

func statusOf(err error) status {
	if err == nil {
		return statusOK
	}
	for s, e := range statusErrors {
		if errors.Is(err, e) {
			return s
		}
	}
	return statusRefused
}

func (s status) err() error {
	if s == statusOK {
		return nil
	}
	if err, ok := statusErrors[s]; ok {
		return err
	}
	return fmt.Errorf("%w: status %d", ErrRefused, uint8(s))
}

type helloOpen struct {
	Statements []member.Statement `cbor:"1,keyasint"`
}

type helloReply struct {
	Status     status             `cbor:"1,keyasint"`
	Statements []member.Statement `cbor:"2,keyasint,omitempty"`
	Rotation   []byte             `cbor:"3,keyasint,omitempty"` // with statusMoved
	Time       int64              `cbor:"4,keyasint,omitempty"` // there, with a refusal
}

type joinOpen struct {
	Links  []member.Link `cbor:"1,keyasint"` // the invitation
	Office string        `cbor:"2,keyasint"`
}

type joinOffer struct {
	Status  status `cbor:"1,keyasint"`
	Time    int64  `cbor:"2,keyasint,omitempty"`
	Expires int64  `cbor:"3,keyasint,omitempty"`
}

type joinProof struct {
	Link member.Link `cbor:"1,keyasint"`
}

type joinWelcome struct {
	Status     status             `cbor:"1,keyasint"`
	Statements []member.Statement `cbor:"2,keyasint,omitempty"`
}

type syncOpen struct {
	Sum   member.ID     `cbor:"1,keyasint"`
	Hints []member.Hint `cbor:"2,keyasint,omitempty"`
	Zips  *uint32       `cbor:"3,keyasint,omitempty"` // that the sender announces
	Time  int64         `cbor:"4,keyasint,omitempty"` // there, in seconds since 1970
	// Fresh is what has entered the roster since the two last had the same.
	Fresh   []member.Statement `cbor:"5,keyasint,omitempty"`
	Missing []member.Key       `cbor:"6,keyasint,omitempty"` // whose addresses are wanted
}

type syncHave struct {
	IDs   []member.ID   `cbor:"1,keyasint,omitempty"`
	Same  bool          `cbor:"2,keyasint,omitempty"`
	Hints []member.Hint `cbor:"3,keyasint,omitempty"`
	Zips  *uint32       `cbor:"4,keyasint,omitempty"` // that the sender announces
	Time  int64         `cbor:"5,keyasint,omitempty"` // there, in seconds since 1970
	// Missing is whose addresses are wanted, in another exchange.
	Missing []member.Key `cbor:"6,keyasint,omitempty"`
}

type syncGive struct {
	Statements []member.Statement `cbor:"1,keyasint,omitempty"`
	Want       []member.ID        `cbor:"2,keyasint,omitempty"`
}

var encMode, decMode = codec()

func codec() (cbor.EncMode, cbor.DecMode) {
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic("CBOR encoder options: " + err.Error()) // constants
	}
	dec, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		UTF8:             cbor.UTF8RejectInvalid,
		MaxNestedLevels:  8,
		MaxArrayElements: 4 * maxGiven, // the IDs of a roster that is full
		MaxMapPairs:      64,
	}.DecMode()
	if err != nil {
		panic("CBOR decoder options: " + err.Error()) // constants
	}
	return enc, dec
}

// decodeMessage decodes a message of a peer; unknown keys are ignored, so that
// fields can be added.
func decodeMessage(b []byte, v any) error {
	if err := decMode.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode a message: %w", err)
	}
	return nil
}

// wire reads and writes messages on one stream, all under one deadline. The
// stream is reset when ctx ends.
type wire struct {
	s    network.Stream
	stop func() bool
}

func newWire(ctx context.Context, s network.Stream, limit time.Duration) (*wire, error) {
	deadline := time.Now().Add(limit)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := s.SetDeadline(deadline); err != nil {
		s.Reset()
		return nil, fmt.Errorf("set a deadline on a stream: %w", err)
	}
	return &wire{s, context.AfterFunc(ctx, func() { s.Reset() })}, nil
}

// close ends the exchange: with a reset if it went wrong.
func (w *wire) close(err error) {
	w.stop()
	if err != nil {
		w.s.Reset()
		return
	}
	w.s.Close()
}

func (w *wire) send(v any) error {
	b, err := encMode.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	if err := msgio.NewVarintWriter(w.s).WriteMsg(b); err != nil {
		return fmt.Errorf("send to %s: %w", w.s.Conn().RemotePeer(), err)
	}
	return nil
}

// receive reads one message of at most limit bytes.
func (w *wire) receive(limit int, v any) error {
	r := msgio.NewVarintReaderSize(w.s, limit)
	b, err := r.ReadMsg()
	if err != nil {
		return fmt.Errorf("receive from %s: %w", w.s.Conn().RemotePeer(), err)
	}
	defer r.ReleaseMsg(b)
	return decodeMessage(b, v)
}
