package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"
)

// authTimeout is the longest run of a program that finds credentials.
const authTimeout = time.Minute

// authCommand is a program of the user, spoken to as "go help goauth" says.
func authCommand(words []string, env environ) authMethod {
	return func(ctx context.Context, url string, resp *http.Response) (map[string]http.Header, error) {
		ctx, cancel := context.WithTimeout(ctx, authTimeout)
		defer cancel()
		if url != "" {
			words = append(words[:len(words):len(words)], url)
		}
		cmd := newCommand(ctx, "", env, words...)
		if resp != nil {
			var head bytes.Buffer
			fmt.Fprintf(&head, "%s %s\n", resp.Proto, resp.Status)
			for key, values := range resp.Header {
				fmt.Fprintf(&head, "%s: %s\n", key, strings.Join(values, ", "))
			}
			head.WriteByte('\n')
			cmd.Stdin = &head
		}
		got, err := runCommand(cmd)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", words[0], err, strings.TrimSpace(got.text))
		}
		found, err := parseCredentials(got.out)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", words[0], err)
		}
		return found, nil
	}
}

// parseCredentials reads what such a program writes: for each set of credentials
// URLs, a blank line, headers, and a blank line.
func parseCredentials(out []byte) (map[string]http.Header, error) {
	found := make(map[string]http.Header)
	r := textproto.NewReader(bufio.NewReader(bytes.NewReader(out)))
	for {
		var prefixes []string
		for {
			line, err := r.ReadLine()
			if err == io.EOF && len(prefixes) == 0 {
				return found, nil
			}
			if err != nil {
				return nil, errors.New("credentials without an empty line after the URLs")
			}
			if line == "" {
				break
			}
			u, err := url.Parse(line)
			if err != nil || u.Scheme != "https" || u.Host == "" {
				return nil, fmt.Errorf("credentials for %.80q: want an https URL", line)
			}
			prefixes = append(prefixes, u.Host+u.EscapedPath())
		}
		header, err := r.ReadMIMEHeader()
		if err != nil {
			return nil, fmt.Errorf("headers of credentials: %w", err)
		}
		for _, prefix := range prefixes {
			found[prefix] = http.Header(header)
		}
	}
}

// gitCredentials asks git's credential helpers in a directory, and tells them
// whether what they knew was right, as the go command does: a helper keeps what
// was, and forgets what was not.
func (a *auth) gitCredentials(dir string, env environ) authMethod {
	git := func(ctx context.Context, verb string, in io.Reader) (result, error) {
		ctx, cancel := context.WithTimeout(ctx, authTimeout)
		defer cancel()
		cmd := newCommand(ctx, dir, append(env[:len(env):len(env)], "GIT_TERMINAL_PROMPT=0", "GCM_INTERACTIVE=never"), "git", "credential", verb)
		cmd.Stdin = in
		got, err := runCommand(cmd)
		if err != nil {
			err = fmt.Errorf("git credential %s: %w: %s", verb, err, strings.TrimSpace(got.text))
		}
		return got, err
	}
	return func(ctx context.Context, target string, _ *http.Response) (map[string]http.Header, error) {
		if target == "" {
			return nil, nil // git cannot tell what it knows, only answer for a URL
		}
		got, err := git(ctx, "fill", strings.NewReader("url="+target+"\n\n"))
		if err != nil {
			return nil, err
		}
		found, err := parseGitCredential(got.out, target)
		for prefix := range found {
			a.await(prefix, func(ok bool) {
				verb := "approve"
				if !ok {
					verb = "reject"
				}
				// The request is answered already; a helper may still be told.
				if _, err := git(context.WithoutCancel(ctx), verb, bytes.NewReader(got.out)); err != nil {
					a.log.Warn("a credential helper could not be told whether a password was right", "error", err)
				}
			})
		}
		return found, err
	}
}

// parseGitCredential reads what git credential fill writes, and refuses what is
// not for target.
func parseGitCredential(out []byte, target string) (map[string]http.Header, error) {
	var u url.URL
	var l login
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		switch key {
		case "protocol":
			u.Scheme = value
		case "host":
			u.Host = value
		case "path":
			u.Path = "/" + strings.TrimPrefix(value, "/")
		case "username":
			l.user = value
		case "password":
			l.password = value
		}
	}
	if prefix := u.String(); u.Host == "" || target != prefix && !strings.HasPrefix(target, strings.TrimSuffix(prefix, "/")+"/") {
		return nil, fmt.Errorf("git credential fill: asked for %s, it answers for %.200q", target, prefix)
	}
	return map[string]http.Header{u.Host + u.EscapedPath(): l.header()}, nil
}

// splitWords cuts a command at blanks; words may be in single or double quotes,
// which hold no escapes.
func splitWords(s string) ([]string, error) {
	var words []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		quote := s[0]
		if quote != '\'' && quote != '"' {
			i := strings.IndexAny(s, " \t\n")
			if i < 0 {
				i = len(s)
			}
			words, s = append(words, s[:i]), s[i:]
			continue
		}
		end := strings.IndexByte(s[1:], quote)
		if end < 0 {
			return nil, errors.New("quote without an end")
		}
		words, s = append(words, s[1:1+end]), s[end+2:]
	}
	return words, nil
}
