package store

import (
	"sync"

	"github.com/hashicorp/golang-lru/simplelru"

	"github.com/meshproxy/meshproxy/verify"
)

// Memory for what reads decode, in bytes.
const (
	maxCachedRecords = 16 << 20
	maxCachedZips    = 32 << 20
	maxCachedBodies  = 8 << 20
	maxCachedBody    = 64 << 10 // of one zip; larger ones come from files, see hot
	maxCachedEntries = 1 << 16
)

// cache keeps decoded records and zip layouts of late, which are costly to
// decode: a record has a signature, a layout thousands of headers. Of small zips it
// keeps the bytes too, where putting together costs more than sending.
type cache struct {
	records *lru[verify.Name, *verify.Signed]
	zips    *lru[verify.Digest, *zipIndex]
	bodies  *lru[verify.Digest, body]
}

// body is all of a zip, and the tag that it had: another encoding has another.
type body struct {
	tag  verify.Digest
	data []byte
}

func newCache() *cache {
	return &cache{
		records: newLRU[verify.Name, *verify.Signed](maxCachedRecords),
		zips:    newLRU[verify.Digest, *zipIndex](maxCachedZips),
		bodies:  newLRU[verify.Digest, body](maxCachedBodies),
	}
}

// lru bounds the weight of what it holds.
type lru[K comparable, V any] struct {
	max int64

	mu     sync.Mutex // guards what follows
	list   *simplelru.LRU
	weight int64
}

type weighed[V any] struct {
	v      V
	weight int64
}

func newLRU[K comparable, V any](maxWeight int64) *lru[K, V] {
	l := &lru[K, V]{max: maxWeight}
	list, err := simplelru.NewLRU(maxCachedEntries, func(_, v any) { l.weight -= v.(weighed[V]).weight })
	if err != nil {
		panic(err) // the size is a positive constant
	}
	l.list = list
	return l
}

func (l *lru[K, V]) get(k K) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.list.Get(k)
	if !ok {
		return v, false
	}
	return w.(weighed[V]).v, true
}

func (l *lru[K, V]) add(k K, v V, weight int64) { l.addIf(k, v, weight, func() bool { return true }) }

// addIf is add if ok says so, which is asked when no remove can come in between.
func (l *lru[K, V]) addIf(k K, v V, weight int64, ok func() bool) {
	if weight > l.max/4 {
		return // it would push out everything else
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok() {
		return
	}
	l.list.Remove(k)
	l.list.Add(k, weighed[V]{v, weight})
	for l.weight += weight; l.weight > l.max; {
		l.list.RemoveOldest()
	}
}

func (l *lru[K, V]) remove(k K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list.Remove(k)
}
