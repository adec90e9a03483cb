package upstream

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
)

// maxNetrc bounds a .netrc file, in bytes.
const maxNetrc = 1 << 20

// auth knows the credentials for proxies, by host, as the go command takes them
// from .netrc. They are sent over https only.
type auth struct {
	machines map[string]login // by host, with the port where the file names one
}

type login struct{ user, password string }

// newAuth reads the credentials that GOAUTH allows: netrc unless it is "off" or
// names other methods only. Those (git, or a command) serve "direct", where the
// go command runs them itself.
func newAuth(env environ) (*auth, error) {
	if !usesNetrc(env.get("GOAUTH")) {
		return &auth{}, nil
	}
	path := env.netrcPath()
	if path == "" {
		return &auth{}, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &auth{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("credentials for upstreams: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNetrc))
	if err != nil {
		return nil, fmt.Errorf("credentials for upstreams: %w", err)
	}
	return &auth{machines: parseNetrc(string(text))}, nil
}

func usesNetrc(goauth string) bool {
	if goauth == "" {
		return true
	}
	for method := range strings.SplitSeq(goauth, ";") {
		if strings.TrimSpace(method) == "netrc" {
			return true
		}
	}
	return false
}

// add sends the credentials of the request's host along.
func (a *auth) add(req *http.Request) {
	if req.URL.Scheme != "https" {
		return
	}
	if l, ok := a.machines[req.URL.Host]; ok {
		req.SetBasicAuth(l.user, l.password)
	}
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
