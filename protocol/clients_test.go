package protocol

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

func newTestToken(t *testing.T, name, patterns string) (secret string, token Token) {
	t.Helper()
	secret, token, err := NewToken(name, patterns)
	if err != nil {
		t.Fatal(err)
	}
	read, err := ParseTokens([]byte("# clients\n\n" + token.String() + "\n"))
	if err != nil || len(read) != 1 || read[0] != token {
		t.Fatalf("%q is read back as %v: %v", token, read, err)
	}
	if strings.Contains(token.String(), secret) {
		t.Fatal("the secret is in the file")
	}
	return secret, token
}

func TestClients(t *testing.T) {
	all, allToken := newTestToken(t, "ci", "")
	some, someToken := newTestToken(t, "partner", "a.test/public/*,b.test")
	o := ClientOptions{
		Tokens: func() []Token { return []Token{allToken, someToken} },
		Allow:  []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::1/128")},
		Exempt: []string{"/healthz"},
	}
	const here, file = "10.1.2.3:999", "/b.test/@v/v1.0.0.zip"
	basic := func(user, secret string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(user, secret) }
	}
	bearer := func(secret string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secret) }
	}
	for name, c := range map[string]struct {
		from, path string
		auth       func(*http.Request)
		want       int
		client     string
	}{
		"no token":                    {here, file, func(*http.Request) {}, 401, ""},
		"bearer":                      {here, file, bearer(all), 200, "ci"},
		"bearer in small letters":     {here, file, func(r *http.Request) { r.Header.Set("Authorization", "bearer "+all) }, 200, "ci"},
		"basic":                       {here, file, basic("ci", all), 200, "ci"},
		"basic with another's name":   {here, file, basic("partner", all), 401, ""},
		"wrong secret":                {here, file, bearer(all[:len(all)-1] + "!"), 401, ""},
		"empty secret":                {here, file, bearer(""), 401, ""},
		"endless secret":              {here, file, bearer(strings.Repeat("x", 5000)), 401, ""},
		"another scheme":              {here, file, func(r *http.Request) { r.Header.Set("Authorization", "Digest "+all) }, 401, ""},
		"from elsewhere":              {"10.2.2.3:999", file, bearer(all), 403, ""},
		"from a mapped address":       {"[::ffff:10.1.2.3]:999", file, bearer(all), 200, "ci"},
		"from IPv6":                   {"[::1]:999", file, bearer(all), 200, "ci"},
		"health":                      {"10.2.2.3:999", "/healthz", func(*http.Request) {}, 200, ""},
		"below health":                {here, "/healthz/x", func(*http.Request) {}, 401, ""},
		"good for the module":         {here, "/a.test/public/x/@v/list", bearer(some), 200, "partner"},
		"good for its lookup":         {here, "/sumdb/s.test/lookup/b.test@v1.0.0", bearer(some), 200, "partner"},
		"good for tiles":              {here, "/sumdb/s.test/tile/8/0/000", bearer(some), 200, "partner"},
		"cached only":                 {here, "/cached-only/b.test/@v/list", bearer(some), 200, "partner"},
		"not for the module":          {here, "/a.test/secret/@v/list", bearer(some), 403, ""},
		"not for another's lookup":    {here, "/sumdb/s.test/lookup/a.test/secret@v1.0.0", bearer(some), 403, ""},
		"not for the index":           {here, "/index", bearer(some), 403, ""},
		"not for what is no module's": {here, "/ui/", bearer(some), 404, ""},
	} {
		t.Run(name, func(t *testing.T) {
			client := "nobody"
			h := Clients(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { client = Client(r.Context()) }), o)
			r := httptest.NewRequest(http.MethodGet, c.path, nil)
			r.RemoteAddr = c.from
			c.auth(r)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.want || c.want == 200 && client != c.client || c.want != 200 && client != "nobody" {
				t.Errorf("status %d for client %q, want %d for %q: %s", w.Code, client, c.want, c.client, w.Body)
			}
			if c.want == 401 && w.Header().Get("WWW-Authenticate") == "" {
				t.Error("nothing says how to authenticate")
			}
		})
	}
}

func TestClientRate(t *testing.T) {
	served := 0
	h := Clients(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }), ClientOptions{Rate: 1e-9, Burst: 3})
	ask := func(from string) int {
		r := httptest.NewRequest(http.MethodGet, "/a.test/@v/list", nil)
		r.RemoteAddr = from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	for range 3 {
		if got := ask("10.0.0.1:1"); got != 200 {
			t.Fatalf("status %d within the burst", got)
		}
	}
	if got := ask("10.0.0.1:2"); got != 429 {
		t.Errorf("status %d above the rate, want 429", got)
	}
	if got := ask("10.0.0.2:1"); got != 200 {
		t.Errorf("status %d for another client", got)
	}
	if served != 4 {
		t.Errorf("%d requests came through, want 4", served)
	}
}

func TestBadTokens(t *testing.T) {
	for name, text := range map[string]string{
		"no hash":        "ci",
		"short hash":     "ci sha256:00",
		"plain secret":   "ci secret",
		"too many words": "ci sha256:" + strings.Repeat("0", 64) + " a b",
		"bad name":       "a:b sha256:" + strings.Repeat("0", 64),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseTokens([]byte(text)); !errors.Is(err, ErrToken) {
				t.Errorf("error %v, want %v", err, ErrToken)
			}
		})
	}
}

func TestRedirect(t *testing.T) {
	for path, want := range map[string]string{
		"/a.test/!b/@v/v1.0.0.zip":      "http://up.test/x/a.test/!b/@v/v1.0.0.zip",
		"/a.test/%21b/@v/list":          "http://up.test/x/a.test/%21b/@v/list",
		"/cached-only/a.test/b/@v/list": "",
	} {
		h := &handler{o: HandlerOptions{}}
		rec := httptest.NewRecorder()
		h.fail(&writer{ResponseWriter: rec}, httptest.NewRequest(http.MethodGet, path, nil), &Redirect{Base: "http://up.test/x/"})
		if got := rec.Header().Get("Location"); got != want || (rec.Code == http.StatusTemporaryRedirect) != (want != "") {
			body, _ := io.ReadAll(rec.Body)
			t.Errorf("%s: status %d to %q, want %q: %s", path, rec.Code, got, want, body)
		}
	}
}

func FuzzParseTokens(f *testing.F) {
	f.Add("ci sha256:" + strings.Repeat("0", 64) + " a.test/*,b.test # x\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := ParseTokens([]byte(text))
		if err != nil {
			return
		}
		for _, token := range list {
			again, err := ParseTokens([]byte(token.String()))
			if err != nil || len(again) != 1 || again[0] != token {
				t.Fatalf("%q is read back as %v: %v", token, again, err)
			}
		}
	})
}
