package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
)

// HookConfig says who is asked before anything new is kept. The zero value is
// nobody.
type HookConfig struct {
	URL     string   // is sent {"Module":M,"Version":V}: 200 allows, 403 refuses
	Command []string // is run with the zip: exit status 0 allows, 1 refuses
	Timeout time.Duration
	TTL     time.Duration // for how long a verdict is remembered
	// Every asks the URL at each request, not only before something new is kept.
	Every bool
	// Open lets through what a hook could not judge. Otherwise that is refused.
	Open bool
}

// Defaults and limits of hooks.
const (
	DefaultHookTimeout = 10 * time.Second
	DefaultHookTTL     = time.Hour
	hookConcurrency    = 16
	commandConcurrency = 2 // scanners are heavy
	maxHookText        = 2 << 10
	maxVerdicts        = 50_000
	// refusalTTL bounds how long a refusal is remembered: somebody may be waiting
	// for an approval.
	refusalTTL = time.Minute
)

// Why a hook lets nothing through.
var (
	// ErrRefused: a hook said no. The text is the hook's.
	ErrRefused = errors.New("refused by a validation hook")
	// ErrHook: a hook gave no verdict.
	ErrHook = errors.New("no verdict from a validation hook")
)

// hooks asks them, and remembers what they said.
type hooks struct {
	cfg     HookConfig
	client  *http.Client
	asking  *semaphore.Weighted
	running *semaphore.Weighted
	flights singleflight.Group

	mu       sync.Mutex
	verdicts map[string]verdict // guarded by mu
}

type verdict struct {
	err   error
	until time.Time
}

func newHooks(cfg HookConfig) (*hooks, error) {
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultHookTimeout)
	cfg.TTL = cmp.Or(cfg.TTL, DefaultHookTTL)
	if cfg.URL != "" {
		if err := CheckURL(cfg.URL); err != nil {
			return nil, fmt.Errorf("hook: %w", err)
		}
	}
	if len(cfg.Command) > 0 {
		path, err := exec.LookPath(cfg.Command[0])
		if err != nil {
			return nil, fmt.Errorf("hook command: %w", err)
		}
		cfg.Command = append([]string{path}, cfg.Command[1:]...)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxConnsPerHost = hookConcurrency
	return &hooks{
		cfg: cfg, verdicts: map[string]verdict{},
		client: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		asking: semaphore.NewWeighted(hookConcurrency), running: semaphore.NewWeighted(commandConcurrency),
	}, nil
}

// Close drops idle connections to hooks.
func (e *Engine) Close() { e.hooks.client.CloseIdleConnections() }

// urls are the hooks in force: the office's own and the mesh's.
func (e *Engine) urls() []string {
	var list []string
	r := e.current()
	for _, u := range []string{e.cfg.Hooks.URL, r.own.Hook, r.meshDoc.Hook} {
		if u != "" {
			list = append(list, u)
		}
	}
	return list
}

// HooksEvery reports whether hooks are asked at each request.
func (e *Engine) HooksEvery() bool { return e.cfg.Hooks.Every && len(e.urls()) > 0 }

// HasCommand reports whether a command judges zips: nothing of a zip may be given
// to anybody before it has.
func (e *Engine) HasCommand() bool { return len(e.cfg.Hooks.Command) > 0 }

// Validate asks the hooks about a module version. The error matches ErrRefused or
// ErrHook, or is that of ctx.
func (e *Engine) Validate(ctx context.Context, m module.Version) error {
	for _, u := range e.urls() {
		err := e.hooks.remembered(ctx, u+" "+m.String(), func(ctx context.Context) error { return e.hooks.ask(ctx, u, m) })
		if err = e.settle(m, err); err != nil {
			return err
		}
	}
	return nil
}

// ValidateZip has the command judge a zip in a file. The verdict is on the content,
// whose digest is sum, under this name.
func (e *Engine) ValidateZip(ctx context.Context, m module.Version, sum, path string) error {
	if !e.HasCommand() {
		return nil
	}
	err := e.hooks.remembered(ctx, "command "+m.String()+" "+sum, func(ctx context.Context) error { return e.hooks.run(ctx, m, path) })
	return e.settle(m, err)
}

// settle lets through what was not judged, if that is wanted.
func (e *Engine) settle(m module.Version, err error) error {
	if e.cfg.Hooks.Open && errors.Is(err, ErrHook) {
		e.cfg.Log.Warn("a validation hook gave no verdict, and the module is let through", "module", m.String(), "err", err)
		return nil
	}
	return err
}

// remembered returns the verdict under key, or gets it, once for all who want it.
// That no verdict was had is not remembered.
func (h *hooks) remembered(ctx context.Context, key string, get func(context.Context) error) error {
	h.mu.Lock()
	v, ok := h.verdicts[key]
	h.mu.Unlock()
	if ok && time.Now().Before(v.until) {
		return v.err
	}
	done := h.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.Timeout)
		defer cancel()
		err := get(ctx)
		if err == nil || errors.Is(err, ErrRefused) {
			h.remember(key, err)
		}
		return nil, err
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hooks) remember(key string, err error) {
	ttl := h.cfg.TTL
	if err != nil {
		ttl = min(ttl, refusalTTL)
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.verdicts) >= maxVerdicts {
		for k, v := range h.verdicts {
			if now.After(v.until) {
				delete(h.verdicts, k)
			}
		}
		if len(h.verdicts) >= maxVerdicts {
			clear(h.verdicts) // they are asked for again
		}
	}
	h.verdicts[key] = verdict{err, now.Add(ttl)}
}

// ask puts a module version to a URL, in the words that Athens uses.
func (h *hooks) ask(ctx context.Context, url string, m module.Version) error {
	if err := h.asking.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("%w: too many questions at once: %w", ErrHook, err)
	}
	defer h.asking.Release(1)
	body, err := json.Marshal(struct{ Module, Version string }{m.Path, m.Version})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHook, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		var of *neturl.Error
		if errors.As(err, &of) {
			err = of.Err // clients read this, and the URL may hold what is not for them
		}
		return fmt.Errorf("%w: %w", ErrHook, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxHookText))
	switch {
	case resp.StatusCode == http.StatusForbidden:
		return refusal(text)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: %s", ErrHook, resp.Status)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrHook, err)
	}
	return nil
}

func refusal(text []byte) error {
	if s := strings.TrimSpace(string(text)); s != "" {
		return fmt.Errorf("%w: %s", ErrRefused, s)
	}
	return ErrRefused
}

// refusedStatus is the exit status with which a command refuses. Others, and an end
// by a signal, are no verdict: a scanner that crashes has judged nothing.
const refusedStatus = 1

// run has the command judge a zip: COMMAND... FILE, with the module in
// MESHPROXY_MODULE and the version in MESHPROXY_VERSION.
func (h *hooks) run(ctx context.Context, m module.Version, path string) error {
	if err := h.running.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("%w: too many zips at once: %w", ErrHook, err)
	}
	defer h.running.Release(1)
	cmd := exec.CommandContext(ctx, h.cfg.Command[0], append(h.cfg.Command[1:len(h.cfg.Command):len(h.cfg.Command)], path)...)
	cmd.Env = append(os.Environ(), "MESHPROXY_MODULE="+m.Path, "MESHPROXY_VERSION="+m.Version)
	alone(cmd)
	cmd.WaitDelay = time.Second // children of its own must not hold its output open
	out := &head{limit: maxHookText}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: the command took longer than %v", ErrHook, h.cfg.Timeout)
	case errors.As(err, &exit) && exit.ExitCode() == refusedStatus:
		return refusal(out.text)
	}
	return fmt.Errorf("%w: the command ended with %v: %s", ErrHook, err, strings.TrimSpace(string(out.text)))
}

// head keeps the first bytes of an output and takes the rest.
type head struct {
	limit int
	text  []byte
}

func (t *head) Write(p []byte) (int, error) {
	t.text = append(t.text, p[:min(len(p), t.limit-len(t.text))]...)
	return len(p), nil
}
