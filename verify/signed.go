package verify

import (
	"bytes"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
)

// recordDomain separates signatures over release records from all other uses of
// a member's key; recordType says how the payload is encoded.
const (
	recordDomain = "meshproxy release record"
	recordType   = "/meshproxy/record/1"
)

// Signed is a record with the signature of the member that made it. Its Envelope
// is what is stored and sent: equal envelopes are equal statements, because there
// is one encoding of each.
type Signed struct {
	Envelope []byte
	Record   Record
	Signer   peer.ID
}

// Seal checks rec and signs it with a member's Ed25519 key. The same record and
// key give the same envelope.
func Seal(rec *Record, key crypto.PrivKey) (*Signed, error) {
	if err := rec.Check(); err != nil {
		return nil, err
	}
	if key.Type() != crypto.Ed25519 {
		return nil, fmt.Errorf("seal %s: key of type %v: want Ed25519", rec.Name, key.Type())
	}
	env, err := record.Seal(&payload{rec: rec}, key)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", rec.Name, err)
	}
	data, err := env.Marshal()
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", rec.Name, err)
	}
	if len(data) > MaxRecord {
		return nil, fmt.Errorf("seal %s: %w: %d bytes, at most %d allowed", rec.Name, ErrRecord, len(data), MaxRecord)
	}
	sealed, err := unmarshalRecord(env.RawPayload) // what others will read; the signature is known to be good
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", rec.Name, err)
	}
	signer, err := peer.IDFromPublicKey(env.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", rec.Name, err)
	}
	return &Signed{Envelope: data, Record: *sealed, Signer: signer}, nil
}

// OpenSigned reads an envelope from anywhere: it checks size, signature, encoding
// and the record's own consistency. Whether the signer is a member, and whether
// the record is true, is for Trust.CheckSigned. Errors are ErrRecord.
func OpenSigned(envelope []byte) (*Signed, error) {
	if len(envelope) > MaxRecord {
		return nil, fmt.Errorf("%w: %d bytes, at most %d allowed", ErrRecord, len(envelope), MaxRecord)
	}
	// The type of key is looked at before a signature is: some are slow to check.
	env, err := record.UnmarshalEnvelope(envelope)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if env.PublicKey.Type() != crypto.Ed25519 {
		return nil, fmt.Errorf("%w: signed with a key of type %v, want Ed25519", ErrRecord, env.PublicKey.Type())
	}
	if string(env.PayloadType) != recordType {
		return nil, fmt.Errorf("%w: payload type %.80q, want %q", ErrRecord, env.PayloadType, recordType)
	}
	if again, err := env.Marshal(); err != nil || !bytes.Equal(again, envelope) {
		return nil, fmt.Errorf("%w: envelope is not in its canonical encoding", ErrRecord)
	}
	var p payload
	env, err = record.ConsumeTypedEnvelope(envelope, &p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	signer, err := peer.IDFromPublicKey(env.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return &Signed{Envelope: bytes.Clone(envelope), Record: *p.rec, Signer: signer}, nil
}

// payload is a record as libp2p's envelopes want it.
type payload struct{ rec *Record }

func (p *payload) Domain() string                 { return recordDomain }
func (p *payload) Codec() []byte                  { return []byte(recordType) }
func (p *payload) MarshalRecord() ([]byte, error) { return p.rec.marshal() }

func (p *payload) UnmarshalRecord(data []byte) (err error) {
	p.rec, err = unmarshalRecord(data)
	return err
}
