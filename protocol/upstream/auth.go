package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// maxNetrc bounds a .netrc file, in bytes.
const maxNetrc = 1 << 20

// auth knows the credentials for proxies as GOAUTH says: from .netrc, from git's
// credential helpers, or from programs of the user. They are sent over https
// only, and to the URLs below the prefix that they are for.
type auth struct {
	log      *slog.Logger
	methods  []authMethod // from GOAUTH; of several that know a prefix, the first counts
	programs bool         // some of them run programs
	turn     chan struct{}
	begun    bool // the methods have been asked without a URL; guarded by turn

	mu    sync.Mutex
	known map[string]http.Header // headers by URL prefix, "host/path"; guarded by mu
	tried map[string]verdict     // by URL prefix: who waits to hear whether they were right; guarded by mu
}

// verdict is told whether credentials were right.
type verdict func(ok bool)

// authMethod finds credentials by prefix. Its URL is empty, or that of a request
// which was refused with resp.
type authMethod func(ctx context.Context, url string, resp *http.Response) (map[string]http.Header, error)

// newAuth reads GOAUTH and .netrc; it runs no program.
func newAuth(env environ, log *slog.Logger) (*auth, error) {
	a := &auth{log: log, turn: make(chan struct{}, 1), known: make(map[string]http.Header), tried: make(map[string]verdict)}
	goauth := env.get("GOAUTH")
	if goauth == "" {
		goauth = "netrc"
	}
	for method := range strings.SplitSeq(goauth, ";") {
		if err := a.method(strings.TrimSpace(method), env); err != nil {
			return nil, fmt.Errorf("credentials for upstreams: GOAUTH=%s: %w", goauth, err)
		}
	}
	return a, nil
}

func (a *auth) method(text string, env environ) error {
	words, err := splitWords(text)
	switch {
	case err != nil:
		return err
	case len(words) == 0:
		return errors.New("empty command")
	case words[0] == "off":
		return nil
	case words[0] == "netrc":
		found, err := readNetrc(env.netrcPath())
		a.methods = append(a.methods, func(context.Context, string, *http.Response) (map[string]http.Header, error) { return found, nil })
		return err
	case words[0] == "git":
		if len(words) != 2 || !filepath.IsAbs(words[1]) {
			return errors.New("git wants the absolute path of a directory")
		}
		a.methods, a.programs = append(a.methods, a.gitCredentials(words[1], env)), true
	default:
		a.methods, a.programs = append(a.methods, authCommand(words, env)), true
	}
	return nil
}

// store remembers headers.
func (a *auth) store(found map[string]http.Header) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for prefix, h := range found {
		a.known[strings.TrimSuffix(prefix, "/")] = h
	}
}

// lookup returns the headers of the longest prefix of a URL.
func (a *auth) lookup(req *http.Request) http.Header {
	a.mu.Lock()
	defer a.mu.Unlock()
	prefix := req.URL.Host + strings.TrimSuffix(req.URL.EscapedPath(), "/")
	for {
		if h, ok := a.known[prefix]; ok {
			return h
		}
		i := strings.LastIndexByte(prefix, '/')
		if i < 0 {
			return nil
		}
		prefix = prefix[:i]
	}
}

// add sends the credentials for a request along, if there are any. Its error is
// that of the request's context.
func (a *auth) add(req *http.Request) error {
	if req.URL.Scheme != "https" {
		return nil
	}
	if err := a.begin(req.Context()); err != nil {
		return err
	}
	for key, values := range a.lookup(req) {
		req.Header[key] = slices.Clone(values)
	}
	return nil
}

// begin asks the methods once without a URL, as the go command does before its
// first request.
func (a *auth) begin(ctx context.Context) error {
	return a.exclusively(ctx, func() {
		if !a.begun {
			a.run(ctx, "", nil)
			a.begun = ctx.Err() == nil
		}
	})
}

// renew runs the programs for a request that was refused, and reports whether it
// should be sent again, with other credentials than before.
func (a *auth) renew(req *http.Request, resp *http.Response) (bool, error) {
	if req.URL.Scheme != "https" || !a.programs {
		return false, nil
	}
	sent := a.lookup(req)
	err := a.exclusively(req.Context(), func() {
		if sameHeader(sent, a.lookup(req)) { // no other request has just renewed them
			a.run(req.Context(), req.URL.String(), resp)
		}
	})
	return !sameHeader(sent, a.lookup(req)), err
}

// judged is told how a request with renewed credentials was answered.
func (a *auth) judged(req *http.Request, status int) {
	refused := status == http.StatusUnauthorized || status == http.StatusProxyAuthRequired
	if !refused && status >= http.StatusBadRequest {
		return // it says nothing about them
	}
	a.mu.Lock()
	var tell []verdict
	for prefix, v := range a.tried {
		if target := req.URL.Host + req.URL.EscapedPath(); target == prefix || strings.HasPrefix(target, strings.TrimSuffix(prefix, "/")+"/") {
			tell = append(tell, v)
			delete(a.tried, prefix)
		}
	}
	a.mu.Unlock()
	for _, v := range tell {
		v(!refused)
	}
}

// await has v told about the credentials of a prefix.
func (a *auth) await(prefix string, v verdict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tried[prefix] = v
}

func sameHeader(a, b http.Header) bool {
	if len(a) != len(b) {
		return false
	}
	for key, values := range a {
		if !slices.Equal(values, b[key]) {
			return false
		}
	}
	return true
}

// exclusively runs f while no other runs.
func (a *auth) exclusively(ctx context.Context, f func()) error {
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
		f()
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run asks all methods, the first of which has the last word. One that fails is
// no reason not to ask an upstream, which may need no credentials.
func (a *auth) run(ctx context.Context, url string, resp *http.Response) {
	for _, method := range slices.Backward(a.methods) {
		found, err := method(ctx, url, resp)
		if err != nil {
			a.log.Warn("no credentials from a method of GOAUTH", "error", err)
		}
		a.store(found)
	}
}

type login struct{ user, password string }

func (l login) header() http.Header {
	req := http.Request{Header: make(http.Header)}
	req.SetBasicAuth(l.user, l.password)
	return req.Header
}

// readNetrc reads a .netrc file; one that does not exist is empty.
func readNetrc(path string) (map[string]http.Header, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNetrc))
	found := make(map[string]http.Header)
	for machine, l := range parseNetrc(string(text)) {
		found[machine] = l.header()
	}
	return found, err
}

// parseNetrc reads a .netrc file as the go command does: pairs of words on each
// line, macros passed over, of several entries for a machine the first, and no
// "default" entry, which would send a password to any host.
func parseNetrc(text string) map[string]login {
	machines := make(map[string]login)
	var machine string
	var l login
	inMacro := false
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if inMacro {
			inMacro = len(words) > 0
			continue
		}
		for ; len(words) >= 2; words = words[2:] {
			switch words[0] {
			case "machine":
				machine, l = words[1], login{}
			case "login":
				l.user = words[1]
			case "password":
				l.password = words[1]
			case "macdef":
				inMacro = true
			}
			if machine == "" || l.user == "" || l.password == "" {
				continue
			}
			if _, ok := machines[machine]; !ok {
				machines[machine] = l
			}
			machine, l = "", login{}
		}
		if len(words) == 1 && words[0] == "default" {
			break
		}
	}
	return machines
}
