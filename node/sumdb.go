package node

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// sumdbInfix stands between a database's name and the path in the keys under
// which offices ask each other for what they have of it.
const sumdbInfix = " sumdb "

// SumDB implements protocol.Backend.
func (n *Node) SumDB(ctx context.Context, name, sub string, o protocol.Options) (*protocol.Answer, error) {
	data, err := n.trust().SumDB(ctx, name, sub, verify.ServeOptions{CachedOnly: o.CachedOnly})
	if err != nil {
		return nil, n.failed(sumdbError(name, sub, err))
	}
	return n.answered(&protocol.Answer{Data: data}, origin{kind: "sumdb"}), nil
}

func sumdbError(name, sub string, err error) error {
	var known *protocol.Error
	switch {
	case errors.Is(err, verify.ErrUnavailable):
		return protocol.Unavailable("%w", err)
	case protocol.IsNotFound(err), errors.Is(err, verify.ErrNotCached):
		return protocol.NotFound("%w", err)
	case errors.Is(err, verify.ErrPrivate):
		return protocol.Errorf(http.StatusForbidden, "%w; the go command here wants it in GONOSUMDB or GOPRIVATE, too", err)
	case errors.Is(err, fs.ErrInvalid):
		return protocol.Errorf(http.StatusBadRequest, "bad request: %w", err)
	case errors.As(err, &known):
		return err
	}
	return protocol.Errorf(http.StatusBadGateway, "checksum database %s: %s: %w", name, sub, err)
}

// sumdbUpstream reaches a database as the go command would: through an upstream
// that serves it, or directly.
type sumdbUpstream struct {
	name      string
	upstreams *upstream.Upstreams
}

// ReadRemote implements verify.DBRemote.
func (r sumdbUpstream) ReadRemote(ctx context.Context, path string) ([]byte, error) {
	return r.upstreams.SumDB(ctx, r.name, strings.TrimPrefix(path, "/"))
}
