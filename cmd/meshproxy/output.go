package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
)

// printJSON writes v as one indented document.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// reportTo prints what was done: on standard error when standard output has the
// result itself.
func reportTo(c *cli.Context, elsewhere bool, result any, text string) error {
	w := c.App.Writer
	if elsewhere {
		w = c.App.ErrWriter
	}
	if c.Bool("json") {
		return printJSON(w, result)
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// bytesText writes a size for people: 1.2 MiB.
func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// agoText writes a past time as how long ago it was.
func agoText(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

// ageText writes a time as --max-age takes it: 90d.
func ageText(d time.Duration) string {
	if day := 24 * time.Hour; d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}
