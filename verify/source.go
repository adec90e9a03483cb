package verify

import "context"

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
