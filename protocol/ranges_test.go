package protocol_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
)

// lent is content that may be read until it is closed: then others have its memory.
// Its second Read ends once it is closed.
type lent struct {
	*bytes.Reader
	reads  atomic.Int32
	second chan struct{} // closed when the second Read has begun
	closed chan struct{}
	late   atomic.Bool // Close came while a Read was under way
	busy   atomic.Bool
}

func (c *lent) Read(p []byte) (int, error) {
	c.busy.Store(true)
	defer c.busy.Store(false)
	if c.reads.Add(1) == 2 {
		close(c.second)
		<-c.closed
	}
	return c.Reader.Read(p)
}

func (c *lent) Close() error {
	c.late.Store(c.busy.Load())
	close(c.closed)
	return nil
}

// gone is a client that hangs up while more of several ranges is read: what it was sent
// first is the head of the first part.
type gone struct {
	*httptest.ResponseRecorder
	content *lent
}

func (w gone) Write(p []byte) (int, error) {
	if strings.HasPrefix(w.Header().Get("Content-Type"), "multipart/") {
		if w.Body.Len() == 0 {
			return w.ResponseRecorder.Write(p)
		}
		<-w.content.second
	}
	return 0, errors.New("connection reset by peer")
}

// TestReadAfterClose asks for several ranges and hangs up: nothing may read on after the
// content was closed.
func TestReadAfterClose(t *testing.T) {
	c := &lent{Reader: bytes.NewReader(make([]byte, 1<<20)), second: make(chan struct{}), closed: make(chan struct{})}
	h := protocol.NewHandler(fixed{newMemory(t), func(context.Context) (*protocol.Answer, error) {
		return &protocol.Answer{Content: c, Closer: c}, nil
	}}, protocol.HandlerOptions{})
	req := httptest.NewRequest(http.MethodGet, zipPath, nil)
	req.Header.Set("Range", "bytes=0-99999,200000-")
	h.ServeHTTP(gone{httptest.NewRecorder(), c}, req)
	if c.late.Load() {
		t.Error("the content was closed while it was being read")
	}
}
