package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/mod/module"
	"golang.org/x/sync/semaphore"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

const (
	maxErrorBody  = 64 << 10 // of an error's text, before it is cut for clients
	maxTries      = 3
	firstBackoff  = 100 * time.Millisecond
	maxRetryAfter = 3 * time.Second // an upstream that asks for more is not asked again
)

// proxy is an entry that speaks the module download protocol.
type proxy struct {
	base   *url.URL // without user info, no slash at the end
	label  string
	client *http.Client
	auth   *auth
	user   *url.Userinfo
	o      Options
	fetch  *semaphore.Weighted // small files in flight: first come, first served
	zips   *semaphore.Weighted // zips in flight, apart, so that they never delay a go.mod
}

func newProxy(text string, client *http.Client, a *auth, o Options) (*proxy, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("GOPROXY entry %.200q: %w", redactText(text), errors.Unwrap(err))
	}
	switch {
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
	case (u.Scheme == "https" || u.Scheme == "http") && u.Host != "":
	default:
		return nil, fmt.Errorf("GOPROXY entry %.200q: want a URL with https, http or file, or direct, or off", u.Redacted())
	}
	if u.Scheme == "http" && u.User != nil {
		return nil, fmt.Errorf("GOPROXY entry %.200q: credentials are not sent over http; use https", u.Redacted())
	}
	if newOwnAddrs(o.Own).has(u) {
		return nil, fmt.Errorf("GOPROXY entry %.200q is this node's own address: %w; take it out of the list", u.Redacted(), ErrLoop)
	}
	p := &proxy{client: client, auth: a, user: u.User, o: o}
	base := *u
	base.User, base.RawQuery, base.Fragment = nil, "", ""
	base.Path = strings.TrimRight(base.Path, "/")
	base.RawPath = strings.TrimRight(base.RawPath, "/")
	p.base = &base
	p.label = label(&base)
	p.fetch = semaphore.NewWeighted(int64(o.Fetches))
	p.zips = semaphore.NewWeighted(int64(o.Zips))
	return p, nil
}

// label names a proxy to users and in records.
func label(u *url.URL) string {
	if u.Scheme == "file" {
		return u.String()
	}
	return u.Host + u.Path
}

// redactText hides a password in what is not even a URL.
func redactText(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		return "..." + s[i:]
	}
	return s
}

func (p *proxy) name() string { return p.label }

func (p *proxy) file(ctx context.Context, n verify.Name) (*Fetched, error) {
	esc, err := escape(n.Module.Path, n.Module.Version)
	if err != nil {
		return nil, err
	}
	target := esc + "." + string(n.Kind)
	if n.Kind == verify.Zip {
		return p.zip(ctx, n, target)
	}
	most := int64(verify.MaxInfo)
	if n.Kind == verify.Mod {
		most = verify.MaxMod
	}
	data, err := p.get(ctx, n.String(), target, most)
	if err != nil {
		return nil, err
	}
	if err := checkSmall(n, data); err != nil {
		return nil, protocol.Errorf(http.StatusBadGateway, "%s: upstream %s: %w", n, p.label, err)
	}
	return &Fetched{Name: n, Data: data, Size: int64(len(data)), Source: p.label}, nil
}

// checkSmall refuses what cannot be the file: an .info of another version, and
// the web page that a portal answers every request with.
func checkSmall(n verify.Name, data []byte) error {
	if n.Kind == verify.Info {
		_, err := protocol.ParseInfo(n.Module.Path, n.Module.Version, data)
		return err
	}
	if text := bytes.TrimSpace(data); bytes.HasPrefix(text, []byte("<")) {
		return errors.New("answer is a web page and no go.mod")
	}
	return nil
}

// escape returns M/@v/V.
func escape(mod, version string) (string, error) {
	escMod, err := module.EscapePath(mod)
	if err != nil {
		return "", badName(err)
	}
	escVersion, err := module.EscapeVersion(version)
	if err != nil {
		return "", badName(err)
	}
	return escMod + "/@v/" + escVersion, nil
}

func (p *proxy) query(ctx context.Context, mod, rev string) (*Fetched, error) {
	target, err := escape(mod, rev)
	if err != nil {
		return nil, err
	}
	return p.info(ctx, mod, rev, target+".info")
}

// info gets the .info of what is no canonical version.
func (p *proxy) info(ctx context.Context, mod, rev, target string) (*Fetched, error) {
	what := mod + "@" + rev
	data, err := p.get(ctx, what, target, verify.MaxInfo)
	if err != nil {
		return nil, err
	}
	info, err := protocol.ParseInfo(mod, rev, data)
	if err != nil {
		return nil, protocol.Errorf(http.StatusBadGateway, "%s: upstream %s: %w", what, p.label, err)
	}
	name := verify.Name{Module: module.Version{Path: mod, Version: info.Version}, Kind: verify.Info}
	return &Fetched{Name: name, Data: data, Size: int64(len(data)), Source: p.label}, nil
}

func (p *proxy) latest(ctx context.Context, mod string) (*Fetched, error) {
	esc, err := module.EscapePath(mod)
	if err != nil {
		return nil, badName(err)
	}
	f, notFound := p.info(ctx, mod, "", esc+"/@latest")
	if !protocol.IsNotFound(notFound) {
		return f, notFound
	}
	list, err := p.list(ctx, mod)
	if err != nil {
		return nil, err
	}
	version := list.Latest()
	if version == "" {
		return nil, notFound
	}
	return p.query(ctx, mod, version)
}

func (p *proxy) list(ctx context.Context, mod string) (*List, error) {
	esc, err := module.EscapePath(mod)
	if err != nil {
		return nil, badName(err)
	}
	text, err := p.get(ctx, mod+"@list", esc+"/@v/list", protocol.MaxList)
	if err != nil {
		return nil, err
	}
	return &List{Versions: protocol.ParseList(mod, text), Source: p.label}, nil
}

// get reads a small answer, with retries.
func (p *proxy) get(ctx context.Context, what, target string, most int64) ([]byte, error) {
	if err := p.fetch.Acquire(ctx, 1); err != nil {
		return nil, failure(what, p.label, err)
	}
	defer p.fetch.Release(1)
	return retry(ctx, p, what, func() ([]byte, error) {
		b, _, err := p.open(ctx, what, target, nil, most)
		if err != nil {
			return nil, err
		}
		defer b.Close()
		data, err := io.ReadAll(b)
		if err != nil {
			return nil, p.broken(ctx, what, err)
		}
		return data, nil
	})
}

// broken is the error for an answer that ended too early or grew too large.
func (p *proxy) broken(ctx context.Context, what string, err error) error {
	e := failure(what, p.label, err)
	if ctx.Err() != nil || !helps(0, err) {
		return backoff.Permanent(e)
	}
	return e
}

// open sends one request and returns its answer with the body if that is a 200, or
// a 206 where header asks for a range. Errors that no retry helps are permanent.
func (p *proxy) open(ctx context.Context, what, target string, header http.Header, most int64) (*body, *http.Response, error) {
	watched, w := newWatch(ctx, p.o.Patience, p.o.Stall)
	resp, err := p.send(watched, target, header)
	var known *protocol.Error
	if errors.As(err, &known) {
		w.stop()
		return nil, nil, backoff.Permanent(err)
	}
	if err != nil {
		if cause := context.Cause(watched); cause != nil {
			err = cause
		}
		w.stop()
		return nil, nil, p.broken(ctx, what, err)
	}
	w.begin()
	b := &body{ctx: watched, r: resp.Body, w: w, limit: most, max: most}
	if resp.StatusCode != http.StatusOK && (resp.StatusCode != http.StatusPartialContent || header == nil) {
		defer b.Close()
		return nil, resp, p.refused(what, resp, b)
	}
	if err := checkHead(resp, most); err != nil {
		b.Close()
		return nil, nil, backoff.Permanent(failure(what, p.label, err))
	}
	return b, resp, nil
}

// send sends a request, and once more if it is refused and other credentials are
// found for it.
func (p *proxy) send(ctx context.Context, target string, header http.Header) (*http.Response, error) {
	req, err := p.request(ctx, target, header)
	if err != nil {
		return nil, err
	}
	resp, err := p.client.Do(req)
	if err != nil || resp.StatusCode < 400 || resp.StatusCode >= 500 || p.user != nil {
		return resp, err
	}
	again, err := p.auth.renew(req, resp)
	if err == nil && !again {
		return resp, nil
	}
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if req, err = p.request(ctx, target, header); err != nil {
		return nil, err
	}
	resp, err = p.client.Do(req)
	if err == nil {
		p.auth.judged(req, resp.StatusCode)
	}
	return resp, err
}

// checkHead refuses an answer by its headers alone.
func checkHead(resp *http.Response, most int64) error {
	if resp.ContentLength > most {
		return &tooLarge{most}
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return fmt.Errorf("answer in encoding %.40q, which was not asked for", enc)
	}
	return nil
}

func (p *proxy) request(ctx context.Context, target string, header http.Header) (*http.Request, error) {
	u := *p.base
	u.Path = p.base.Path + "/" + target
	u.RawPath = ""
	if p.base.RawPath != "" {
		u.RawPath = p.base.RawPath + "/" + (&url.URL{Path: target}).EscapedPath()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, badName(err)
	}
	maps.Copy(req.Header, header)
	if p.user != nil {
		password, _ := p.user.Password()
		req.SetBasicAuth(p.user.Username(), password)
	} else if err := p.auth.add(req); err != nil {
		return nil, err
	}
	if hops := joinHops(protocol.Hops(ctx), p.o.Self); hops != "" {
		req.Header.Set(protocol.HopHeader, hops)
	}
	req.Header.Set("User-Agent", "meshproxy")
	return req, nil
}

func joinHops(hops, self string) string {
	if hops == "" || self == "" {
		return hops + self
	}
	return hops + "," + self
}

// refused makes the error of an answer that is no 200, with the upstream's text.
func (p *proxy) refused(what string, resp *http.Response, b *body) error {
	status := statusOf(resp.StatusCode)
	text := what + ": upstream " + p.label + ": " + strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode)
	if status == http.StatusNotFound || status == http.StatusGone {
		text = "not found: " + text
	}
	if detail := errorBody(resp, b); detail != "" {
		text += "\n" + detail
	}
	e := &protocol.Error{Status: status, Text: text}
	after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	if !helps(resp.StatusCode, nil) || time.Duration(after)*time.Second > maxRetryAfter {
		return backoff.Permanent(e)
	}
	return e
}

// errorBody reads the text of an error, if it is text.
func errorBody(resp *http.Response, b *body) string {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "text/plain" {
		return ""
	}
	b.limit = min(b.limit, maxErrorBody)
	text, _ := io.ReadAll(b) // as much as came: the status says the rest
	return protocol.ErrorText(string(text))
}

// retry runs op until it succeeds, its error is permanent, or it was tried often
// enough.
func retry[T any](ctx context.Context, p *proxy, what string, op func() (T, error)) (T, error) {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = firstBackoff
	got, err := backoff.Retry(ctx, op, backoff.WithBackOff(b), backoff.WithMaxTries(maxTries), backoff.WithMaxElapsedTime(0),
		backoff.WithNotify(func(err error, wait time.Duration) {
			p.o.Log.Debug("upstream is asked again", "what", what, "upstream", p.label, "wait", wait, "error", err)
		}))
	var permanent *backoff.PermanentError
	if errors.As(err, &permanent) {
		err = permanent.Err
	}
	var known *protocol.Error
	if err != nil && !errors.As(err, &known) {
		err = failure(what, p.label, err) // ctx ended between two tries
	}
	return got, err
}
