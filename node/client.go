package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/store"
)

// Client asks the node that serves a data directory, through its control socket.
type Client struct {
	http *http.Client
}

// Dial connects to the node that serves dir; ErrNotRunning when there is none.
func Dial(ctx context.Context, dir string) (*Client, error) {
	conn, err := dialControl(ctx, dir)
	if err != nil {
		return nil, err
	}
	conn.Close() // it was there; every request dials anew
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dialControl(ctx, dir) }}
	return &Client{http: &http.Client{Transport: t}}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status implements Control.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return ask[*Status](ctx, c, "status", struct{}{})
}

// Peers implements Control.
func (c *Client) Peers(ctx context.Context) ([]Peer, error) {
	return ask[[]Peer](ctx, c, "peers", struct{}{})
}

// Invite implements Control.
func (c *Client) Invite(ctx context.Context, inv Invitation) (string, error) {
	return ask[string](ctx, c, "invite", inv)
}

// Join implements Control.
func (c *Client) Join(ctx context.Context, token string) (*Joined, error) {
	return ask[*Joined](ctx, c, "join", token)
}

// Invitations implements Control.
func (c *Client) Invitations(ctx context.Context) ([]OpenInvitation, error) {
	return ask[[]OpenInvitation](ctx, c, "invitations", struct{}{})
}

// Withdraw implements Control.
func (c *Client) Withdraw(ctx context.Context, id string) error { return tell(ctx, c, "withdraw", id) }

// Leave implements Control.
func (c *Client) Leave(ctx context.Context) error { return tell(ctx, c, "leave", struct{}{}) }

// Revoke implements Control.
func (c *Client) Revoke(ctx context.Context, r Revocation) ([]string, error) {
	return ask[[]string](ctx, c, "revoke", r)
}

// Rotate implements Control.
func (c *Client) Rotate(ctx context.Context, without []string) error {
	return tell(ctx, c, "rotate", without)
}

// Doctor implements Control.
func (c *Client) Doctor(ctx context.Context) ([]Finding, error) {
	return ask[[]Finding](ctx, c, "doctor", struct{}{})
}

// Conflicts implements Control.
func (c *Client) Conflicts(ctx context.Context) ([]Conflict, error) {
	return ask[[]Conflict](ctx, c, "conflicts", struct{}{})
}

// Trust implements Control.
func (c *Client) Trust(ctx context.Context, sums GoSum) (int, error) {
	return ask[int](ctx, c, "trust", sums)
}

// Trusted implements Control.
func (c *Client) Trusted(ctx context.Context) ([]Trusted, error) {
	return ask[[]Trusted](ctx, c, "trusted", struct{}{})
}

// Distrust implements Control.
func (c *Client) Distrust(ctx context.Context, m module.Version) (int, error) {
	return ask[int](ctx, c, "distrust", m)
}

// Proof implements Control.
func (c *Client) Proof(ctx context.Context, q ProofQuery) (*Proven, error) {
	return ask[*Proven](ctx, c, "proof", q)
}

// Pin implements Control.
func (c *Client) Pin(ctx context.Context, pattern string) error { return tell(ctx, c, "pin", pattern) }

// Unpin implements Control.
func (c *Client) Unpin(ctx context.Context, pattern string) error {
	return tell(ctx, c, "unpin", pattern)
}

// Pinned implements Control.
func (c *Client) Pinned(ctx context.Context) ([]string, error) {
	return ask[[]string](ctx, c, "pinned", struct{}{})
}

// GC implements Control.
func (c *Client) GC(ctx context.Context, o Limits, progress func(store.Progress)) (*Collected, error) {
	return askLong[*Collected](ctx, c, "gc", o, progress)
}

// Verify implements Control.
func (c *Client) Verify(ctx context.Context, progress func(store.Progress)) (*Verified, error) {
	return askLong[*Verified](ctx, c, "verify", struct{}{}, progress)
}

func tell(ctx context.Context, c *Client, name string, in any) error {
	_, err := ask[struct{}](ctx, c, name, in)
	return err
}

func askLong[Out any](ctx context.Context, c *Client, name string, in any, progress func(store.Progress)) (out Out, err error) {
	err = askStream(ctx, c, name, in, func(r report[Out]) error {
		if r.Progress == nil {
			out = r.Result
		} else if progress != nil {
			progress(*r.Progress)
		}
		return nil
	})
	return out, err
}

// Releases implements Control.
func (c *Client) Releases(ctx context.Context, prefix string, each func(Release) error) error {
	return askStream(ctx, c, "releases", prefix, each)
}

func ask[Out any](ctx context.Context, c *Client, name string, in any) (out Out, err error) {
	err = askStream(ctx, c, name, in, func(o Out) error { out = o; return nil })
	return out, err
}

func askStream[Out any](ctx context.Context, c *Client, name string, in any, each func(Out) error) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	resp, err := c.post(ctx, name, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return readFrames(resp.Body, each)
}

// post sends a request to the node. The caller closes the body of the answer.
func (c *Client) post(ctx context.Context, name string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/"+name, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the running node: %w", errors.Unwrap(err))
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("the running node does not know the request %q: is it of another version?", name)
	}
	return resp, nil
}

func readFrames[Out any](r io.Reader, each func(Out) error) error {
	lim := &io.LimitedReader{R: r}
	dec := json.NewDecoder(lim)
	for {
		lim.N = maxControlFrame
		var fr frame
		if err := dec.Decode(&fr); err != nil {
			return fmt.Errorf("the running node broke off its answer: %w", err)
		}
		if fr.Done {
			if fr.Error != "" {
				return errors.New(fr.Error)
			}
			return nil
		}
		var out Out
		if err := json.Unmarshal(fr.Item, &out); err != nil {
			return fmt.Errorf("answer of the running node: %w", err)
		}
		if err := each(out); err != nil {
			return err
		}
	}
}
