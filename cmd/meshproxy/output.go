package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"
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

// newTable makes a table without frills that fits the terminal; printTable
// prints it.
func newTable(w io.Writer, header ...any) table.Writer {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatUpper
	style.Size.WidthMax = terminalWidth(w)
	t.SetStyle(style)
	if len(header) > 0 {
		t.AppendHeader(table.Row(header))
	}
	return t
}

// printTable writes t without the blanks that pad its last column.
func printTable(w io.Writer, t table.Writer) error {
	var b strings.Builder
	for line := range strings.Lines(t.Render()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// terminalWidth is the number of columns of the terminal that w is, 0 (no limit)
// when it is none.
func terminalWidth(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
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
