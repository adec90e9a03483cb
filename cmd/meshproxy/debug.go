package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func debugCommand() *cli.Command {
	return group(&cli.Command{
		Name:  "debug",
		Usage: "collect what helps to find a fault",
	}, bundleCommand())
}

func bundleCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "bundle",
		Usage:     "put what helps to find a fault into a zip",
		ArgsUsage: "FILE",
		Description: `FILE is made anew; - is standard output. It holds status, peers, findings of the doctor,
settings, metrics, the last requests, and profiles of the process. There are no keys,
tokens or passwords in it, but names of modules and offices are.

Examples:

   meshproxy debug bundle bundle.zip
   meshproxy debug bundle - > bundle.zip`,
		Flags: serveFlags(),
	}, func(c *cli.Context) error {
		return withControl(c, func(ctl node.Control) error {
			err := writeWhole(c.Args().First(), c.App.Writer, func(w io.Writer) error { return bundle(c, ctl, w) })
			if err != nil {
				return fmt.Errorf("debug bundle: %w", err)
			}
			if c.Args().First() == "-" {
				return nil
			}
			_, err = fmt.Fprintf(c.App.Writer, "Wrote %s. It names modules and offices: give it to those only who may know them.\n", c.Args().First())
			return err
		})
	})
}

// secret finds what stands between a scheme and a host, user and password, up to the
// last @ in case one is in them; queries of URLs, where services put tokens; and
// invitations.
var secret = regexp.MustCompile(`://[^/\s"]*@|(https?://[^\s"?]*)\?[^\s",|]+|meshproxy1-[\w-]+|mpx_\w+`)

// redact takes the secrets out of a text.
func redact(text []byte) []byte {
	return secret.ReplaceAllFunc(text, func(found []byte) []byte {
		switch {
		case bytes.HasSuffix(found, []byte("@")):
			return []byte("://REDACTED@")
		case bytes.HasPrefix(found, []byte("http")):
			url, _, _ := bytes.Cut(found, []byte("?"))
			return append(redact(url), "?REDACTED"...)
		}
		return []byte("REDACTED")
	})
}

// private are the settings whose values may be secrets, or lead to them.
var private = regexp.MustCompile(`(?i)token|secret|password|passphrase|key|auth`)

// bundle writes the zip. What cannot be had is noted in it, and does not keep the
// rest away: the node may be sick.
func bundle(c *cli.Context, ctl node.Control, w io.Writer) error {
	z := zip.NewWriter(w)
	ctx := c.Context
	var missing bytes.Buffer
	add := func(name string, get func() (any, error)) {
		data, err := textOf(get)
		if err != nil {
			fmt.Fprintf(&missing, "%s: %v\n", name, err)
			return
		}
		f, err := z.Create(name)
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			fmt.Fprintf(&missing, "%s: %v\n", name, err)
		}
	}
	add("version.json", func() (any, error) { return thisVersion(), nil })
	add("settings.json", func() (any, error) { return publicSettings(c), nil })
	add("status.json", func() (any, error) { return ctl.Status(ctx) })
	add("peers.json", func() (any, error) { return ctl.Peers(ctx) })
	add("doctor.json", func() (any, error) { return ctl.Doctor(ctx) })
	if running, ok := ctl.(*node.Client); ok {
		for name, path := range node.Diagnostics {
			add(name, func() (any, error) { return fetched(ctx, running, path) })
		}
	}
	if missing.Len() > 0 {
		add("missing.txt", func() (any, error) { return redact(missing.Bytes()), nil })
	}
	return z.Close()
}

// textOf is what get returns as text without passwords; bytes stay what they are.
func textOf(get func() (any, error)) ([]byte, error) {
	v, err := get()
	if err != nil {
		return nil, err
	}
	if raw, ok := v.([]byte); ok {
		return raw, nil
	}
	data, err := json.MarshalIndent(v, "", "  ")
	return redact(data), err
}

// maxDiagnostic bounds one part of a bundle, in bytes.
const maxDiagnostic = 64 << 20

func fetched(ctx context.Context, running *node.Client, path string) ([]byte, error) {
	var b bytes.Buffer
	err := running.Diagnose(ctx, path, &limitedBuffer{&b, maxDiagnostic})
	if path == node.Diagnostics["metrics.txt"] || path == node.Diagnostics["activity.json"] {
		return redact(b.Bytes()), err
	}
	return b.Bytes(), err
}

// limitedBuffer refuses to hold more than it may.
type limitedBuffer struct {
	b    *bytes.Buffer
	left int
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > l.left {
		return 0, errors.New("too large")
	}
	l.left -= len(p)
	return l.b.Write(p)
}

// publicSettings are the settings without what may be secret.
func publicSettings(c *cli.Context) []setting {
	list := settings(c)
	for i, s := range list {
		if private.MatchString(s.Key) && s.Value != "" {
			list[i].Value = "REDACTED"
		}
	}
	return list
}
