package verify

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// defaultKey is the public key of the Go toolchain's default checksum database,
// less its name: what follows the name in a note verifier key. The name comes
// from "go env GOSUMDB", and the hash in the key says whether it is the right one.
const defaultKey = "+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"

// maxSpec bounds the text of a specification, in bytes.
const maxSpec = 4 << 10

// Spec says which checksum database to use and how to reach it.
type Spec struct {
	Off  bool   // no database; the other fields are empty
	Name string // host, perhaps with a path; the name in its key and under /sumdb/
	Key  string // note verifier key: name+hash+key
	URL  string // where it is reached, past all proxies; empty: by name
	Only string // patterns of the modules it covers, as in GONOSUMDB; empty: all that GONOSUMDB leaves
}

// ParseSpec reads the grammar of GOSUMDB: "off", a NAME whose key the Go toolchain
// knows, a KEY (name+hash+key), each of the last two perhaps followed by a URL. An
// extension allows "only=PATTERNS" as the last field, so that several databases
// can stand side by side.
func ParseSpec(s string) (Spec, error) {
	if len(s) > maxSpec {
		return Spec{}, fmt.Errorf("checksum database of %d bytes: at most %d allowed", len(s), maxSpec)
	}
	var spec Spec
	f := strings.Fields(s)
	if n := len(f); n > 1 {
		if only, ok := strings.CutPrefix(f[n-1], "only="); ok {
			if strings.Trim(only, ", ") == "" {
				return Spec{}, fmt.Errorf("checksum database %q: only= wants patterns, separated by commas", s)
			}
			spec.Only, f = only, f[:n-1]
		}
	}
	if len(f) == 0 || len(f) > 2 {
		return Spec{}, fmt.Errorf("checksum database %q: want off, NAME or NAME+HASH+KEY, and perhaps a URL", s)
	}
	if f[0] == "off" {
		if len(f) > 1 || spec.Only != "" {
			return Spec{}, fmt.Errorf("checksum database %q: nothing may follow off", s)
		}
		return Spec{Off: true}, nil
	}
	var err error
	if spec.Name, spec.Key, err = parseKey(f[0]); err != nil {
		return Spec{}, err
	}
	if len(f) == 2 {
		u, err := url.Parse(f[1])
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return Spec{}, fmt.Errorf("checksum database %s: URL %q: want http or https, host, perhaps a path", spec.Name, f[1])
		}
		spec.URL = strings.TrimSuffix(f[1], "/")
	}
	return spec, nil
}

// parseKey takes a key, or a name that fits the default key.
func parseKey(s string) (name, key string, err error) {
	key = s
	if !strings.Contains(s, "+") {
		key = s + defaultKey
	}
	v, err := note.NewVerifier(key)
	switch {
	case err != nil && key != s:
		return "", "", fmt.Errorf("checksum database %q: its key is not known here; give NAME+HASH+KEY", s)
	case err != nil:
		return "", "", fmt.Errorf("checksum database key %.200q: %w; want NAME+HASH+KEY as the database publishes it", s, err)
	}
	if err := checkDatabaseName(v.Name()); err != nil {
		return "", "", err
	}
	return v.Name(), key, nil
}

// checkDatabaseName lets only host[/path] pass, because the name becomes part of
// URLs and of cache keys.
func checkDatabaseName(name string) error {
	u, err := url.Parse("https://" + name)
	if err == nil && (u.Host == "" || u.String() != "https://"+name || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.RawPath != "" || strings.HasSuffix(name, "/") || strings.Contains(name, "//") || strings.Contains(name, "..")) {
		err = errors.New("want host[/path]")
	}
	if err != nil {
		return fmt.Errorf("checksum database name %.200q: %w", name, err)
	}
	return nil
}
