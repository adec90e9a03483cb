package protocol

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/mod/module"
	"golang.org/x/time/rate"
)

// Limits of client authentication.
const (
	MaxTokens     = 1 << 20 // bytes of a file of tokens
	maxTokenLines = 10_000
	maxTokenName  = 64
	maxSecret     = 256
	maxLimiters   = 20_000 // clients whose rates are remembered
)

// Token is what the node knows of a client's secret: its hash. Secrets are made by
// NewToken with 256 bits of chance, so that a fast hash keeps them.
type Token struct {
	Name     string
	Sum      [sha256.Size]byte
	Patterns string // of modules that it is good for, as in GOPRIVATE; empty: for all
}

// ErrToken says that a line is no token.
var ErrToken = errors.New("bad token")

// NewToken makes a secret and the token that goes with it.
func NewToken(name, patterns string) (secret string, t Token, err error) {
	t = Token{Name: name, Patterns: patterns}
	if err := t.check(); err != nil {
		return "", t, err
	}
	secret = "mpx_" + rand.Text() + rand.Text()
	t.Sum = sha256.Sum256([]byte(secret))
	return secret, t, nil
}

func (t Token) check() error {
	bad := func(r rune) bool { return r <= ' ' || r == ':' || r == '#' || r > '~' }
	if t.Name == "" || len(t.Name) > maxTokenName || strings.ContainsFunc(t.Name, bad) {
		return fmt.Errorf("%w: name %.80q: want 1 to %d visible characters without : and #", ErrToken, t.Name, maxTokenName)
	}
	if strings.ContainsFunc(t.Patterns, bad) {
		return fmt.Errorf("%w: patterns %.80q of %s: want them with commas and without spaces", ErrToken, t.Patterns, t.Name)
	}
	return nil
}

const sumPrefix = "sha256:"

// String is the line that ParseTokens reads.
func (t Token) String() string {
	return strings.TrimSpace(t.Name + " " + sumPrefix + hex.EncodeToString(t.Sum[:]) + " " + t.Patterns)
}

// ParseTokens reads a file of tokens: each line is a name, the hash of the secret,
// and the patterns of modules that it is good for, if not for all. "#" begins a
// comment.
func ParseTokens(text []byte) ([]Token, error) {
	if len(text) > MaxTokens {
		return nil, fmt.Errorf("%w: file of %d bytes, at most %d are read", ErrToken, len(text), MaxTokens)
	}
	var list []Token
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		t, err := parseToken(fields)
		if err == nil && len(list) >= maxTokenLines {
			err = fmt.Errorf("%w: more than %d", ErrToken, maxTokenLines)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		list = append(list, t)
	}
	return list, nil
}

func parseToken(fields []string) (Token, error) {
	t := Token{Name: fields[0]}
	if len(fields) < 2 || len(fields) > 3 {
		return t, fmt.Errorf("%w: %d words, want a name, a hash and patterns", ErrToken, len(fields))
	}
	text, ok := strings.CutPrefix(fields[1], sumPrefix)
	sum, err := hex.DecodeString(text)
	if !ok || err != nil || len(sum) != len(t.Sum) {
		return t, fmt.Errorf("%w: hash of %s: want %s and 64 hex digits", ErrToken, t.Name, sumPrefix)
	}
	copy(t.Sum[:], sum)
	if len(fields) == 3 {
		t.Patterns = fields[2]
	}
	return t, t.check()
}

// ClientOptions say who is let in. The zero value lets everybody in.
type ClientOptions struct {
	// Tokens returns the tokens that are good now; nil asks for none. While it is
	// set, a client without a token is refused, also if there are none.
	Tokens func() []Token
	Allow  []netip.Prefix // addresses that clients may come from; empty: all
	Rate   float64        // requests a second of one client; 0: no limit
	Burst  int            // requests that a client may have made at once; at least 1
	Exempt []string       // paths that are answered whoever asks
	// Denied is told why a client was not let in; nil: nobody is.
	Denied func(client string, err error)
}

// Clients lets in whom the options allow, and passes their requests on to next.
func Clients(next http.Handler, o ClientOptions) http.Handler {
	o.Burst = max(o.Burst, 1)
	return &clients{next: next, o: o, limiters: map[string]*rate.Limiter{}}
}

type clients struct {
	next http.Handler
	o    ClientOptions

	mu       sync.Mutex
	limiters map[string]*rate.Limiter // guarded by mu; by name or address
}

type clientKey struct{}

// Client names who asked: the name of its token, else its address; "" outside of
// Clients.
func Client(ctx context.Context) string {
	name, _ := ctx.Value(clientKey{}).(string)
	return name
}

// ServeHTTP implements http.Handler.
func (c *clients) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if slices.Contains(c.o.Exempt, r.URL.Path) {
		c.next.ServeHTTP(w, r)
		return
	}
	client, err := c.letIn(r)
	if err != nil {
		c.refuse(w, r, client, err)
		return
	}
	c.next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), clientKey{}, client)))
}

// letIn says who asks, and why it is not let in.
func (c *clients) letIn(r *http.Request) (client string, err error) {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	ip := addr.Addr().Unmap().WithZone("")
	client = ip.String()
	if len(c.o.Allow) > 0 && (err != nil || !slices.ContainsFunc(c.o.Allow, func(p netip.Prefix) bool { return p.Contains(ip) })) {
		return client, Errorf(http.StatusForbidden, "clients at %s are not served here", client)
	}
	var t *Token
	if c.o.Tokens != nil {
		// Those who guess are slowed down by their address.
		if t = c.token(r); t == nil {
			if err := c.inTime(client); err != nil {
				return client, err
			}
			return client, Errorf(http.StatusUnauthorized, "this node serves clients with a token only: put it into .netrc or GOAUTH, or ask its operator for one")
		}
		client = t.Name
	}
	if err := c.inTime(client); err != nil {
		return client, err
	}
	if t != nil && t.Patterns != "" {
		return client, t.good(r)
	}
	return client, nil
}

// token is the one whose secret the request carries, nil if it carries none. All of
// them are compared, so that time tells nothing.
func (c *clients) token(r *http.Request) *Token {
	user, secret, basic := r.BasicAuth()
	if !basic {
		scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil
		}
		secret = strings.TrimSpace(rest)
	}
	if secret == "" || len(secret) > maxSecret {
		return nil
	}
	sum := sha256.Sum256([]byte(secret))
	var found *Token
	for _, t := range c.o.Tokens() {
		same := subtle.ConstantTimeCompare(sum[:], t.Sum[:])
		if basic {
			same &= subtle.ConstantTimeCompare([]byte(user), []byte(t.Name))
		}
		if same == 1 {
			found = &t
		}
	}
	return found
}

// good reports whether a token that is for some modules is for what is asked.
func (t *Token) good(r *http.Request) error {
	req, err := ParsePath(r.URL.Path)
	if err != nil {
		return err
	}
	path := req.Path
	switch req.Op {
	case OpFile:
		path = req.Name.Module.Path
	case OpSumDB:
		escaped, ok := strings.CutPrefix(req.Sub, "lookup/")
		if !ok {
			return nil // trees and tiles name no module
		}
		escaped, _, _ = strings.Cut(escaped, "@")
		if path, err = module.UnescapePath(escaped); err != nil {
			return Errorf(http.StatusBadRequest, "bad request: %w", err)
		}
	}
	if path == "" || !module.MatchPrefixPatterns(t.Patterns, path) {
		return Errorf(http.StatusForbidden, "the token of %s is not good for %.300s", t.Name, strings.TrimPrefix(r.URL.Path, "/"))
	}
	return nil
}

// inTime counts a request of a client.
func (c *clients) inTime(client string) error {
	if c.o.Rate <= 0 {
		return nil
	}
	c.mu.Lock()
	l := c.limiters[client]
	if l == nil {
		if len(c.limiters) >= maxLimiters {
			c.forgetIdle()
		}
		l = rate.NewLimiter(rate.Limit(c.o.Rate), c.o.Burst)
		c.limiters[client] = l
	}
	c.mu.Unlock()
	if l.Allow() {
		return nil
	}
	return Errorf(http.StatusTooManyRequests, "%s asks too often: at most %g requests a second are answered", client, c.o.Rate)
}

// forgetIdle makes room; c.mu is held.
func (c *clients) forgetIdle() {
	for name, l := range c.limiters {
		if l.Tokens() >= float64(c.o.Burst) {
			delete(c.limiters, name)
		}
	}
	if len(c.limiters) >= maxLimiters {
		clear(c.limiters)
	}
}

// refuse answers a client that is not let in.
func (c *clients) refuse(w http.ResponseWriter, r *http.Request, client string, err error) {
	if c.o.Denied != nil {
		c.o.Denied(client, err)
	}
	status, text := StatusOf(err), ErrorText(err.Error())
	head := w.Header()
	head["Content-Type"] = textPlain
	head["Cache-Control"] = noStore
	head["X-Content-Type-Options"] = nosniff
	head["Content-Length"] = []string{strconv.Itoa(len(text) + 1)}
	switch status {
	case http.StatusUnauthorized:
		head["Www-Authenticate"] = []string{`Basic realm="meshproxy"`}
	case http.StatusTooManyRequests:
		head["Retry-After"] = []string{"1"}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		fmt.Fprintln(w, text) // an error is the client's, which is gone
	}
}
