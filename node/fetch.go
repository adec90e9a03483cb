package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/mesh/exchange"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// fetch gets the file from the upstreams and admits it, and whatever came with it.
func (n *errand) fetch(ctx context.Context) (origin, *verify.Signed, error) {
	name := n.name
	f, err := n.fetchTraced(ctx, name)
	n.requests.fetched(name.Kind, err)
	if err != nil {
		return origin{}, nil, err
	}
	defer f.Close()
	admitting, span := n.part(ctx, "admit", name.String())
	from := origin{fromUpstream, f.Source}
	signed, err := n.admit(admitting, f, func() { n.arrived(from) })
	ended(span, err)
	if err != nil {
		return origin{}, nil, err
	}
	for _, also := range f.Also {
		if n.has(also.Name) {
			continue
		}
		if _, err := n.admit(ctx, also, nil); err != nil {
			n.log.Warn("a file that came along was not admitted", "file", also.Name.String(), "err", err)
		}
	}
	return from, signed, nil
}

// fetchChecked asks the upstreams for a file, and at the same time the checksum
// database for its digest, so that checking costs no time of its own. What the
// database said is in its cache afterwards; an error of it is met again there.
func (n *Node) fetchChecked(ctx context.Context, name verify.Name) (*upstream.Fetched, error) {
	if name.Kind == verify.Info {
		return n.upstreams.File(ctx, name) // no database knows these
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var both errgroup.Group
	both.Go(func() error {
		n.trust().Expect(ctx, name) //nolint:errcheck // admit asks again, and then it counts
		return nil
	})
	f, err := n.upstreams.File(ctx, name)
	if err != nil {
		cancel()
	}
	both.Wait()
	return f, err
}

// notObtained puts together why a file could not be had: what the mesh said, and
// what the upstreams said. An upstream's clear answer is passed on as it is; an
// outage stays one.
func (n *Node) notObtained(name string, meshErr, err error) error {
	if n.isOff() {
		return n.onlyMesh(name, meshErr)
	}
	if isAnswer(err) {
		return err
	}
	status := protocol.StatusOf(err)
	if status == http.StatusInternalServerError {
		return fmt.Errorf("%s: %w", name, err)
	}
	return &protocol.Error{Status: status, Err: err, Text: fmt.Sprintf("%s; %s", err, n.meshText(meshErr))}
}

// onlyMesh is the error of an office that takes modules from other offices only.
func (n *Node) onlyMesh(name string, meshErr error) error {
	var known *protocol.Error
	if errors.As(meshErr, &known) {
		return meshErr // an office has it, and it was refused: that is the reason
	}
	if known, reached := n.reach(); known == 0 || reached == known && errors.Is(meshErr, exchange.ErrUnknown) {
		return protocol.NotFound("%s: %s; upstream: off", name, n.meshText(meshErr))
	}
	return protocol.Unavailable("%s: %s; upstream: off", name, n.meshText(meshErr))
}

// isAnswer reports whether an error is what the upstream had to say about a
// module, as opposed to its not being able to say anything.
func isAnswer(err error) bool {
	if protocol.IsNotFound(err) {
		return true
	}
	var e *protocol.Error
	return errors.As(err, &e) && e.Status < http.StatusInternalServerError && e.Status != http.StatusTooManyRequests
}
