package upstream

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/net/http/httpproxy"
)

// environ is an environment in the form of os.Environ.
type environ []string

// get returns the last value of key, as exec gives it to a child, or "".
func (e environ) get(key string) string {
	for _, kv := range slices.Backward(e) {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// either returns the value of key in capitals or in small letters.
func (e environ) either(key string) string {
	if v := e.get(key); v != "" {
		return v
	}
	return e.get(strings.ToLower(key))
}

func (e environ) home() string {
	if home := e.get("HOME"); home != "" {
		return home
	}
	return e.get("USERPROFILE")
}

// proxyFunc chooses the HTTP proxy as the environment says.
func proxyFunc(e environ) func(*http.Request) (*url.URL, error) {
	conf := httpproxy.Config{HTTPProxy: e.either("HTTP_PROXY"), HTTPSProxy: e.either("HTTPS_PROXY"), NoProxy: e.either("NO_PROXY"), CGI: e.get("REQUEST_METHOD") != ""}
	choose := conf.ProxyFunc()
	return func(req *http.Request) (*url.URL, error) { return choose(req.URL) }
}

// netrcPath is where the go command looks for .netrc.
func (e environ) netrcPath() string {
	if path := e.get("NETRC"); path != "" {
		return path
	}
	home := e.home()
	if home == "" {
		return ""
	}
	if legacy := filepath.Join(home, "_netrc"); os.PathSeparator == '\\' {
		if _, err := os.Stat(legacy); err == nil {
			return legacy
		}
	}
	return filepath.Join(home, ".netrc")
}
