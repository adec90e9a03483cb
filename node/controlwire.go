package node

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/meshproxy/meshproxy/store"
)

const (
	maxControlRequest = 64 << 20 // go.sum files of the operator's own
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
func controlHandler(c Control) *http.ServeMux {
	mux := http.NewServeMux()
	handle(mux, "status", func(ctx context.Context, _ struct{}) (*Status, error) { return c.Status(ctx) })
	handle(mux, "peers", func(ctx context.Context, _ struct{}) ([]Peer, error) { return c.Peers(ctx) })
	handle(mux, "invite", c.Invite)
	handle(mux, "invitations", func(ctx context.Context, _ struct{}) ([]OpenInvitation, error) { return c.Invitations(ctx) })
	handle(mux, "withdraw", silent(c.Withdraw))
	handle(mux, "join", c.Join)
	handle(mux, "leave", silent(func(ctx context.Context, _ struct{}) error { return c.Leave(ctx) }))
	handle(mux, "revoke", c.Revoke)
	handle(mux, "rotate", silent(c.Rotate))
	handle(mux, "exportkeys", c.ExportKeys)
	handle(mux, "doctor", func(ctx context.Context, _ struct{}) ([]Finding, error) { return c.Doctor(ctx) })
	handle(mux, "conflicts", func(ctx context.Context, _ struct{}) ([]Conflict, error) { return c.Conflicts(ctx) })
	handle(mux, "trust", c.Trust)
	handle(mux, "trusted", func(ctx context.Context, _ struct{}) ([]Trusted, error) { return c.Trusted(ctx) })
	handle(mux, "distrust", c.Distrust)
	handle(mux, "proof", c.Proof)
	handle(mux, "policytest", c.PolicyTest)
	handle(mux, "policypublish", c.PolicyPublish)
	handle(mux, "policyshow", func(ctx context.Context, _ struct{}) (*MeshPolicy, error) { return c.PolicyShow(ctx) })
	handle(mux, "why", c.Why)
	handle(mux, "publish", c.Publish)
	handle(mux, "pin", silent(c.Pin))
	handle(mux, "unpin", silent(c.Unpin))
	handle(mux, "pinned", func(ctx context.Context, _ struct{}) ([]string, error) { return c.Pinned(ctx) })
	handleLong(mux, "gc", c.GC)
	handleLong(mux, "verify", func(ctx context.Context, _ struct{}, p func(store.Progress)) (*Verified, error) {
		return c.Verify(ctx, p)
	})
	handleLong(mux, "import", c.Import)
	handleLong(mux, "prefetch", c.Prefetch)
	handleLong(mux, "export", c.Export)
	handleStream(mux, "modules", func(ctx context.Context, prefix string, emit func(store.Usage) error) error {
		return c.Modules(ctx, prefix, emit)
	})
	handleStream(mux, "replicas", func(ctx context.Context, prefix string, emit func(Replica) error) error {
		return c.Replicas(ctx, prefix, emit)
	})
	mux.HandleFunc("POST /backup", serveBackup(c))
	handleStream(mux, "releases", func(ctx context.Context, prefix string, emit func(Release) error) error {
		return c.Releases(ctx, prefix, emit)
	})
	// For whoever looks into a running node; the socket is its owner's alone.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// silent makes a method without a result one with an empty one.
func silent[In any](f func(context.Context, In) error) func(context.Context, In) (struct{}, error) {
	return func(ctx context.Context, in In) (struct{}, error) { return struct{}{}, f(ctx, in) }
}

// report is an item of a long request: how far it is, and at the end its result.
type report[Out any] struct {
	Progress *store.Progress `json:"progress,omitempty"`
	Result   Out             `json:"result,omitempty"`
}

const progressEvery = 200 * time.Millisecond

// handleLong serves a request that tells how far it is.
func handleLong[In, Out any](mux *http.ServeMux, name string, f func(context.Context, In, func(store.Progress)) (Out, error)) {
	handleStream(mux, name, func(ctx context.Context, in In, emit func(report[Out]) error) error {
		var last time.Time
		out, err := f(ctx, in, func(p store.Progress) {
			if time.Since(last) >= progressEvery {
				last = time.Now()
				emit(report[Out]{Progress: &p}) // who has gone cancels ctx
			}
		})
		if err != nil {
			return err
		}
		return emit(report[Out]{Result: out})
	})
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
				if err := enc.Encode(frame{Item: item}); err != nil {
					return err
				}
				return http.NewResponseController(w).Flush()
			})
		}
		end := frame{Done: true}
		if err != nil {
			end.Error = err.Error()
		}
		enc.Encode(end) // the asker that cannot be told sees that there is no end
	})
}
