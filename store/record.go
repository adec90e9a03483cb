package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// Record returns the record of a name; ErrNotFound when there is none. The caller
// must not change it.
func (s *Store) Record(n verify.Name) (*verify.Signed, error) {
	if r, ok := s.cache.records.get(n); ok {
		return r, nil
	}
	if err := n.Check(); err != nil {
		return nil, err
	}
	var signed *verify.Signed
	err := s.view(func(txn *badger.Txn) (err error) {
		signed, err = getRecord(txn, n)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", n, err)
	}
	s.cacheRecord(signed)
	return signed, nil
}

func (s *Store) cacheRecord(r *verify.Signed) {
	s.cache.records.add(r.Record.Name, r, int64(2*len(r.Envelope)+512))
}

func getRecord(txn *badger.Txn, n verify.Name) (*verify.Signed, error) {
	b, err := getValue(txn, recordKey(n))
	if err != nil {
		return nil, err
	}
	digest, envelope, err := splitRecord(b)
	if err != nil {
		return nil, err
	}
	signed, err := verify.OpenSigned(envelope)
	if err != nil {
		return nil, damaged("record", err)
	}
	if signed.Record.Name != n || signed.Record.Digest != digest {
		return nil, damaged("record", fmt.Errorf("it is that of %s", signed.Record.Name))
	}
	return signed, nil
}

// arrive notes the first record of a module version in the index of arrivals,
// under a time later than all before.
func (t *tx) arrive(n verify.Name, now time.Time) error {
	known, err := hasRelease(t.txn, n.Module)
	if known || err != nil {
		return err
	}
	at := max(uint64(now.UnixNano()), t.arrival+1)
	t.arrival = at
	t.acct.Releases++
	return t.set(timeKey(spaceArrival, at), key(0, n.Module.Path, n.Module.Version)[1:])
}

// hasRelease reports whether a module version has any record.
func hasRelease(txn *badger.Txn, m module.Version) (known bool, err error) {
	err = scan(txn, key(spaceRecord, m.Path, m.Version, ""), nil, false, func(*badger.Item) error {
		known = true
		return errStop
	})
	return known, err
}

// Arrival is a module version and when its first record came.
type Arrival struct {
	Module module.Version
	At     time.Time
}

// Index lists at most limit module versions that arrived at since or later, in
// the order of their arrival. No two have the same time.
func (s *Store) Index(since time.Time, limit int) ([]Arrival, error) {
	var list []Arrival
	from := uint64(0)
	if since.After(time.Unix(0, 0)) {
		from = uint64(since.UnixNano())
	}
	if limit <= 0 {
		return nil, nil
	}
	err := s.view(func(txn *badger.Txn) error {
		return scan(txn, []byte{spaceArrival}, timeKey(spaceArrival, from), true, func(item *badger.Item) error {
			a, err := decodeArrival(item)
			if err != nil {
				return err
			}
			if list = append(list, a); len(list) >= limit {
				return errStop
			}
			return nil
		})
	})
	return list, err
}

func decodeArrival(item *badger.Item) (Arrival, error) {
	var a Arrival
	k := item.Key()
	if len(k) != 9 {
		return a, damaged("arrival", fmt.Errorf("key %q", k))
	}
	a.At = time.Unix(0, int64(binary.BigEndian.Uint64(k[1:]))).UTC()
	err := viewItem(item, func(v []byte) error {
		path, version, ok := strings.Cut(string(v), "\x00")
		if !ok {
			return damaged("arrival", fmt.Errorf("value %.200q", v))
		}
		a.Module = module.Version{Path: path, Version: version}
		return nil
	})
	return a, err
}

// Release is a module version of which the store has a record.
type Release struct {
	Module module.Version
	Kinds  []verify.Kind // that have a record, sorted
}

// Releases calls fn with each release, sorted by path and then by version as
// text, until fn fails.
func (s *Store) Releases(ctx context.Context, fn func(Release) error) error {
	return s.releases(ctx, []byte{spaceRecord}, nil, fn)
}

func (s *Store) releases(ctx context.Context, prefix, from []byte, fn func(Release) error) error {
	return s.view(func(txn *badger.Txn) error {
		var r Release
		err := scan(txn, prefix, from, false, func(item *badger.Item) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := parseRecordKey(item.Key())
			if err != nil {
				return err
			}
			if n.Module == r.Module {
				r.Kinds = append(r.Kinds, n.Kind)
				return nil
			}
			done := r
			r = Release{Module: n.Module, Kinds: []verify.Kind{n.Kind}}
			if done.Module.Path == "" {
				return nil
			}
			if err := fn(done); err != nil {
				r = Release{}
				return err
			}
			return nil
		})
		if err != nil || r.Module.Path == "" {
			return err
		}
		if err := fn(r); !errors.Is(err, errStop) {
			return err
		}
		return nil
	})
}

// Versions lists the versions of a module of which the store has a record, sorted
// as text.
func (s *Store) Versions(path string) ([]string, error) {
	var list []string
	err := s.releases(context.Background(), key(spaceRecord, path, ""), nil, func(r Release) error {
		list = append(list, r.Module.Version)
		return nil
	})
	return list, err
}

// VersionsFrom lists at most n versions of a module that begin with prefix and follow
// after, which is empty for the first; more says that there are others behind them.
func (s *Store) VersionsFrom(path, prefix, after string, n int) (list []string, more bool, err error) {
	var from []byte
	if after != "" && after >= prefix {
		from = append(key(spaceRecord, path, after), 1) // behind all kinds of that version
	}
	err = s.releases(context.Background(), key(spaceRecord, path, prefix), from, func(r Release) error {
		if len(list) == n {
			more = true
			return errStop
		}
		list = append(list, r.Module.Version)
		return nil
	})
	return list, more, err
}

// Catalog lists at most n releases that follow token, which is empty for the
// first and else what the call before returned; next is empty at the end. A token
// is path@version and stays good when releases come and go.
func (s *Store) Catalog(token string, n int) (list []module.Version, next string, err error) {
	return s.catalog(token, n, math.MaxInt, func(string) bool { return true })
}

// Search is Catalog for releases whose module paths match. It looks at no more than
// most releases, and then returns what it found and where to go on, be that nothing.
func (s *Store) Search(token string, n, most int, match func(path string) bool) (list []module.Version, next string, err error) {
	return s.catalog(token, n, most, match)
}

func (s *Store) catalog(token string, n, most int, match func(path string) bool) (list []module.Version, next string, err error) {
	from := []byte{spaceRecord}
	if token != "" {
		path, version, ok := strings.Cut(token, "@")
		if !ok {
			return nil, "", fmt.Errorf("catalog token %.80q: want path@version", token)
		}
		from = append(key(spaceRecord, path, version), 1) // behind all kinds of that version
	}
	if n <= 0 {
		return nil, token, nil
	}
	more, seen := false, 0
	var last module.Version
	err = s.releases(context.Background(), []byte{spaceRecord}, from, func(r Release) error {
		if len(list) == n || seen == most {
			more = true
			return errStop
		}
		seen, last = seen+1, r.Module
		if match(r.Module.Path) {
			list = append(list, r.Module)
		}
		return nil
	})
	if more {
		next = last.String()
	}
	return list, next, err
}

// Conflict is a refused record, kept as evidence.
type Conflict struct {
	Name verify.Name
	Have *verify.Signed // the record that stayed; nil if it is gone
	Got  *verify.Signed // the refused one
	At   time.Time
}

// Conflicts lists the refused records, sorted by name.
func (s *Store) Conflicts() ([]Conflict, error) {
	var list []Conflict
	err := s.view(func(txn *badger.Txn) error {
		err := scan(txn, []byte{spaceConflict}, nil, true, func(item *badger.Item) error {
			return viewItem(item, func(v []byte) error {
				at, envelope, err := decodeStamped(v)
				if err != nil {
					return err
				}
				got, err := verify.OpenSigned(bytes.Clone(envelope))
				if err != nil {
					return damaged("conflict", err)
				}
				list = append(list, Conflict{Name: got.Record.Name, Got: got, At: time.Unix(at, 0).UTC()})
				return nil
			})
		})
		if err != nil {
			return err
		}
		for i := range list {
			list[i].Have, err = getRecord(txn, list[i].Name)
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		return nil
	})
	return list, err
}
