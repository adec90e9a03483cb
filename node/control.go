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
	"net/http/pprof"
	"time"

	"golang.org/x/mod/module"
)

// Control is what an operator can ask of an office. A running Node answers it
// itself, Client passes it to the node that serves a data directory, and Offline
// answers from the store of one that does not run.
type Control interface {
	Status(ctx context.Context) (*Status, error)
	// Peers lists every office that this one knows of, itself left out.
	Peers(ctx context.Context) ([]Peer, error)
	// Releases calls each for every module version whose path is prefix or below
	// it, in order of path and version; an empty prefix is every one.
	Releases(ctx context.Context, prefix string, each func(Release) error) error
	// Invite makes a token that lets one more office in.
	Invite(ctx context.Context, inv Invitation) (token string, err error)
	// Join enrols this office with a token.
	Join(ctx context.Context, token string) (*Joined, error)
}

// Status is an office at a glance. Times are UTC, sizes bytes.
type Status struct {
	Running   bool      `json:"running"`
	Version   string    `json:"version,omitempty"`
	Started   time.Time `json:"started,omitzero"`
	Data      string    `json:"data"`
	URL       string    `json:"url,omitempty"` // what GOPROXY is set to
	PeerID    string    `json:"peer_id,omitempty"`
	Mesh      string    `json:"mesh,omitempty"`
	Office    string    `json:"office,omitempty"`
	Role      string    `json:"role,omitempty"`
	P2P       []string  `json:"p2p,omitempty"` // multiaddrs that other offices can dial, with the peer ID
	Upstreams []string  `json:"upstreams,omitempty"`
	SumDB     []string  `json:"sumdb,omitempty"`
	Known     int       `json:"members_known"` // other members
	Connected int       `json:"members_connected"`
	Store     Holdings  `json:"store"`
	Served    []Served  `json:"served,omitempty"`
	Errors    uint64    `json:"errors"` // answers that were none
	Conflicts int       `json:"conflicts"`
}

// Holdings says how much an office holds.
type Holdings struct {
	Releases int   `json:"releases"`      // module versions of which at least one file is held
	Zips     int   `json:"zips"`          // distinct ones
	Files    int   `json:"files"`         // distinct contents
	Logical  int64 `json:"logical_bytes"` // uncompressed, each zip counted by itself
	Disk     int64 `json:"disk_bytes"`    // of the data directory
}

// Served counts what came from one source since the start.
type Served struct {
	Source  string `json:"source"` // "store", "peer NAME", "upstream NAME"
	Answers uint64 `json:"answers"`
	Bytes   int64  `json:"bytes"`
}

// Peer is another office as this one sees it.
type Peer struct {
	ID        string        `json:"id"`
	Office    string        `json:"office"`
	Role      string        `json:"role"`
	Connected bool          `json:"connected"`
	How       string        `json:"how,omitempty"` // direct, relayed, LAN
	RTT       time.Duration `json:"rtt_ns,omitempty"`
	Addr      string        `json:"addr,omitempty"`
	Seen      time.Time     `json:"seen,omitzero"`
	Expires   time.Time     `json:"expires,omitzero"`
}

// Release is one module version as ls shows it.
type Release struct {
	module.Version
	Files   []string  `json:"files"` // of info, mod and zip, those held
	H1      string    `json:"h1,omitempty"`
	Size    int64     `json:"size"` // of what is held, unpacked
	Fetched time.Time `json:"fetched"`
	Office  string    `json:"office"`
	Source  string    `json:"source"`
	Vouched string    `json:"vouched"`
}

// Invitation says whom a token lets in.
type Invitation struct {
	Role   string        `json:"role"`   // member or admin
	Office string        `json:"office"` // the name that the newcomer gets; empty lets it choose
	TTL    time.Duration `json:"ttl"`
	Uses   int           `json:"uses"`
}

// Joined is the outcome of an enrolment.
type Joined struct {
	Mesh    string `json:"mesh"`
	Office  string `json:"office"`
	Role    string `json:"role"`
	Running bool   `json:"running"` // a running node was enrolled
}

const (
	maxControlRequest = 1 << 20
	maxControlFrame   = 8 << 20
	controlTimeout    = 5 * time.Second // for the headers of a request
)

// A frame is one line of an answer on the control socket: an item, or the end,
// which says whether the request failed. An answer without an end was cut off.
type frame struct {
	Item  json.RawMessage `json:"item,omitempty"`
	Done  bool            `json:"done,omitempty"`
	Error string          `json:"error,omitempty"`
}

// controlHandler serves c on the control socket: POST /NAME with one JSON
// argument, answered with frames, one a line.
func controlHandler(c Control) http.Handler {
	mux := http.NewServeMux()
	handle(mux, "status", func(ctx context.Context, _ struct{}) (*Status, error) { return c.Status(ctx) })
	handle(mux, "peers", func(ctx context.Context, _ struct{}) ([]Peer, error) { return c.Peers(ctx) })
	handle(mux, "invite", c.Invite)
	handle(mux, "join", c.Join)
	handleStream(mux, "releases", func(ctx context.Context, prefix string, emit func(Release) error) error {
		return c.Releases(ctx, prefix, emit)
	})
	// For whoever looks into a running node; the socket is its owner's alone.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func handle[In, Out any](mux *http.ServeMux, name string, f func(context.Context, In) (Out, error)) {
	handleStream(mux, name, func(ctx context.Context, in In, emit func(Out) error) error {
		out, err := f(ctx, in)
		if err != nil {
			return err
		}
		return emit(out)
	})
}

func handleStream[In, Out any](mux *http.ServeMux, name string, f func(context.Context, In, func(Out) error) error) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		enc := json.NewEncoder(w)
		var in In
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxControlRequest)).Decode(&in)
		if err == nil {
			err = f(r.Context(), in, func(out Out) error {
				item, err := json.Marshal(out)
				if err != nil {
					return err
				}
				return enc.Encode(frame{Item: item})
			})
		}
		end := frame{Done: true}
		if err != nil {
			end.Error = err.Error()
		}
		enc.Encode(end) // the asker that cannot be told sees that there is no end
	})
}

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
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/"+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running node: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the running node does not know the request %q: is it of another version?", name)
	}
	return readFrames(resp.Body, each)
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
