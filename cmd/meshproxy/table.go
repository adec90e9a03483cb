package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

const (
	columnGap = 2  // blanks between two columns
	leastWrap = 10 // columns of text; a narrower one is not read any more
)

// grid is a table without frills that fits the terminal and leaves nothing out. It
// wraps the widest columns first, between words; where they would have to break words,
// such as a peer ID that somebody wants to copy, each row is printed as lines of its
// own, as psql does.
type grid struct {
	width  int // of the terminal; 0 for no limit
	header []string
	rows   [][]any
}

// newTable makes a table for w; printTable prints it.
func newTable(w io.Writer, header ...string) *grid {
	return &grid{width: terminalWidth(w), header: header}
}

// AppendRow adds a row of as many cells as the table has columns.
func (g *grid) AppendRow(cells []any) { g.rows = append(g.rows, cells) }

// printTable writes t without the blanks that pad its last column.
func printTable(w io.Writer, t *grid) error {
	var b strings.Builder
	for line := range strings.Lines(t.render()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (g *grid) render() string {
	natural, words := g.natural()
	widths, ok := fit(natural, words, g.width)
	if !ok && len(g.header) > 0 {
		return g.expanded()
	}
	t := plainTable()
	if len(g.header) > 0 {
		row := table.Row{}
		for _, title := range g.header {
			row = append(row, title)
		}
		t.AppendHeader(row)
	}
	for _, row := range g.rows {
		t.AppendRow(row)
	}
	var wrapped []table.ColumnConfig
	for i, width := range widths {
		if width < natural[i] {
			wrapped = append(wrapped, table.ColumnConfig{Number: i + 1, WidthMax: width, WidthMaxEnforcer: wrap})
		}
	}
	t.SetColumnConfigs(wrapped)
	return t.Render()
}

// wrap breaks each line of a cell between words, and words that are too long.
func wrap(cell string, width int) string {
	lines := strings.Split(cell, "\n")
	for i, line := range lines {
		lines[i] = text.WrapSoft(line, width)
	}
	return strings.Join(lines, "\n")
}

// expanded has a line for each cell, and a blank one between two rows.
func (g *grid) expanded() string {
	var parts []string
	for _, row := range g.rows {
		one := &grid{width: g.width}
		for i, cell := range row {
			title := ""
			if i < len(g.header) {
				title = strings.ToUpper(g.header[i])
			}
			one.AppendRow([]any{title, cell})
		}
		parts = append(parts, one.render())
	}
	return strings.Join(parts, "\n\n")
}

// natural is how wide each column would like to be, and how wide it is at least where
// no word is broken.
func (g *grid) natural() (widths, words []int) {
	note := func(i int, cell string) {
		for len(widths) <= i {
			widths, words = append(widths, 0), append(words, 0)
		}
		widths[i] = max(widths[i], text.LongestLineLen(cell))
		for word := range strings.FieldsSeq(cell) {
			words[i] = max(words[i], text.StringWidthWithoutEscSequences(word))
		}
	}
	for i, title := range g.header {
		note(i, title)
	}
	for _, row := range g.rows {
		for i, cell := range row {
			note(i, fmt.Sprint(cell))
		}
	}
	return widths, words
}

// fit shrinks columns until all fit into width: first the widest of those that have
// more room than their longest word, then the widest of all. It is not ok where words
// break, or a column would be narrower than leastWrap; then the widths are as near as
// it gets.
func fit(natural, words []int, width int) (widths []int, ok bool) {
	widths, ok = slices.Clone(natural), true
	if width <= 0 || len(natural) == 0 {
		return widths, true
	}
	room := width - columnGap*(len(widths)-1)
	for total := sum(widths); total > room; total-- {
		widest := widestAbove(widths, words)
		if widest < 0 {
			widest, ok = widestAbove(widths, make([]int, len(widths))), false
		}
		if widest < 0 {
			return widths, false
		}
		widths[widest]--
	}
	return widths, ok
}

// widestAbove is the widest column that is wider than leastWrap and than least says,
// -1 if there is none.
func widestAbove(widths, least []int) int {
	at := -1
	for i, w := range widths {
		if w > max(leastWrap, least[i]) && (at < 0 || w > widths[at]) {
			at = i
		}
	}
	return at
}

func sum(list []int) int {
	total := 0
	for _, n := range list {
		total += n
	}
	return total
}

func plainTable() table.Writer {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", strings.Repeat(" ", columnGap)
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	return t
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
