package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
)

// DBCache keeps what a Database has verified, durably. Only verified bytes go in.
// Its methods are called from many goroutines at once.
type DBCache interface {
	// Get returns the value last put under key, which the caller does not change.
	// It is fs.ErrNotExist when there is none.
	Get(key string) ([]byte, error)
	// Put keeps value under key, in place of an older one. When it returns nil, the
	// value outlives this process, and so does everything put before it.
	Put(key string, value []byte) error
}

// DBRemote reaches a checksum database somehow: directly, through an upstream's
// /sumdb/, or from peers. Nothing that it returns is trusted.
type DBRemote interface {
	// ReadRemote returns what the database serves at path, which begins with
	// "/lookup/", "/tile/" or is "/latest". It reads no more than BodyLimit(path)
	// bytes and ends when ctx does. An error that is fs.ErrNotExist is an answer: the
	// database itself, or a proxy that speaks for it, said 404 or 410. A remote that
	// asks caches must not return it when a cache lacks something.
	ReadRemote(ctx context.Context, path string) ([]byte, error)
}

// Source is a remote with the name that operators know it by.
type Source struct {
	Name   string // "direct", "proxy HOST", "peers"
	Remote DBRemote
}

// coolDown is for how long a source that failed is asked after the others.
const coolDown = 30 * time.Second

// source is a Source with its recent past.
type source struct {
	Source
	id        string       // tells it from all others of the database
	coolUntil atomic.Int64 // Unix nanoseconds
}

// order returns the sources as configured, those that failed lately last. None is
// left out: a failure is no reason not to try.
func (d *Database) order() []*source {
	now := time.Now().UnixNano()
	order := make([]*source, 0, len(d.sources))
	for _, cooling := range []bool{false, true} {
		for _, s := range d.sources {
			if (s.coolUntil.Load() > now) == cooling {
				order = append(order, s)
			}
		}
	}
	return order
}

// read reads path from src, within the limits of size and time.
func (d *Database) read(ctx context.Context, src *source, path string) ([]byte, error) {
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	body, err := src.Remote.ReadRemote(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if limit := BodyLimit(path); int64(len(body)) > limit {
		return nil, fmt.Errorf("%w: %s of %d bytes, at most %d allowed", errRejected, path, len(body), limit)
	}
	return body, nil
}

func (d *Database) failed(src *source, err error) {
	src.coolUntil.Store(time.Now().Add(coolDown).UnixNano())
	d.stats.failures.Add(1)
	if !errors.Is(err, errRejected) && !errors.Is(err, ErrSecurity) {
		return
	}
	d.stats.rejected.Add(1)
	d.log.Warn("source of a checksum database sent what does not check",
		"database", d.name, "source", src.Name, "error", err)
	if d.onReject != nil {
		d.onReject(src.Name, err)
	}
}

// failures are the errors of several sources, in one line.
type failures []error

func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f failures) Unwrap() []error { return f }
