package up

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"github.com/meshproxy/meshproxy/node"
)

const (
	// statsTime is how long an office may take to say how it is; a frozen one does not.
	statsTime = 3 * time.Second
	// maxPairs are the pairs of offices in a table for people, the busiest ones.
	maxPairs = 40
	// maxSource is how wide the name of a source may be for a table to fit 80 columns.
	maxSource = 22
)

// state is what an office says of itself.
type state struct {
	Name    string       `json:"name"`
	Running bool         `json:"running"`
	Line    string       `json:"line"`
	Status  *node.Status `json:"status"` // null if it says nothing
}

func stats(ctx context.Context, r *room, _ []string) error {
	states, moved := r.states(ctx), r.lines.traffic()
	if r.JSON {
		return json.NewEncoder(r.out).Encode(map[string]any{"stats": states, "traffic": moved})
	}
	t := plainTable("office", "connected to", "releases", "answers", "from", "bytes")
	t.SetColumnConfigs([]table.ColumnConfig{
		{Name: "releases", Align: text.AlignRight}, {Name: "answers", Align: text.AlignRight},
		{Name: "from", WidthMax: maxSource, WidthMaxEnforcer: clip}, {Name: "bytes", Align: text.AlignRight},
	})
	for _, s := range states {
		switch st := s.Status; {
		case !s.Running:
			t.AppendRow(table.Row{s.Name, "is not running"})
		case st == nil:
			t.AppendRow(table.Row{s.Name, "says nothing"})
		default:
			var answers, from, size []string
			for _, served := range st.Served {
				answers, from = append(answers, fmt.Sprint(served.Answers)), append(from, served.Source)
				size = append(size, humanize.Bytes(uint64(served.Bytes)))
			}
			t.AppendRow(table.Row{s.Name, fmt.Sprintf("%d of %d", st.Connected, st.Known), st.Store.Releases,
				strings.Join(answers, "\n"), strings.Join(from, "\n"), strings.Join(size, "\n")})
		}
	}
	if err := r.print(t); err != nil {
		return err
	}
	return r.printPairs(moved)
}

// states asks all offices at the same time.
func (r *room) states(ctx context.Context) []state {
	ctx, cancel := context.WithTimeout(ctx, statsTime)
	defer cancel()
	states := make([]state, len(r.offices))
	var all sync.WaitGroup
	for i, o := range r.offices {
		states[i] = state{Name: o.name, Running: o.isRunning(), Line: o.line.String()}
		if !states[i].Running {
			continue
		}
		all.Go(func() {
			if st, err := o.running.Status(ctx); err == nil {
				states[i].Status = st
			}
		})
	}
	all.Wait()
	return states
}

// pair is what went between two offices.
type pair struct{ there, back traffic }

func (p pair) bytes() int64 { return p.there.Bytes + p.back.Bytes }

// pairs joins the directions of each two offices, the busiest first.
func pairs(moved []traffic) []pair {
	type names [2]string
	by := map[names]*pair{}
	var all []*pair
	for _, t := range moved {
		key, isBack := names{t.From, t.To}, false
		if by[key] == nil && by[names{t.To, t.From}] != nil {
			key, isBack = names{t.To, t.From}, true
		}
		if by[key] == nil {
			by[key] = &pair{there: traffic{From: t.From, To: t.To}}
			all = append(all, by[key])
		}
		if isBack {
			by[key].back = t
		} else {
			by[key].there = t
		}
	}
	slices.SortStableFunc(all, func(a, b *pair) int { return cmp.Compare(b.bytes(), a.bytes()) })
	var out []pair
	for _, p := range all {
		out = append(out, *p)
	}
	return out
}

// printPairs prints at most 80 columns.
func (r *room) printPairs(moved []traffic) error {
	isPackets := slices.ContainsFunc(moved, func(t traffic) bool { return t.Packets > 0 || t.Lost > 0 })
	t := plainTable("between", "and", "->", "<-", "dialled ->", "<-")
	if isPackets {
		t = plainTable("between", "and", "->", "<-", "packets ->", "<-", "lost")
	}
	var numbers []table.ColumnConfig
	for i := range 5 {
		numbers = append(numbers, table.ColumnConfig{Number: i + 3, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	t.SetColumnConfigs(numbers)
	all := pairs(moved)
	for _, p := range all[:min(len(all), maxPairs)] {
		row := table.Row{p.there.From, p.there.To, humanize.Bytes(uint64(p.there.Bytes)), humanize.Bytes(uint64(p.back.Bytes))}
		if isPackets {
			row = append(row, short(p.there.Packets), short(p.back.Packets), short(p.there.Lost+p.back.Lost))
		} else {
			row = append(row, p.there.Dialled, p.back.Dialled)
		}
		t.AppendRow(row)
	}
	if n := len(all) - maxPairs; n > 0 {
		t.AppendRow(table.Row{fmt.Sprint(n, " more")})
	}
	fmt.Fprintln(r.out)
	return r.print(t)
}

// print prints a table without the blanks at the ends of its lines.
func (r *room) print(t table.Writer) error {
	var b strings.Builder
	for line := range strings.Lines(t.Render()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	_, err := io.WriteString(r.out, b.String())
	return err
}

// clip shortens each line of a cell.
func clip(cell string, width int) string {
	lines := strings.Split(cell, "\n")
	for i, line := range lines {
		lines[i] = text.Trim(line, width)
	}
	return strings.Join(lines, "\n")
}

// short writes a count in a few columns: 12.3k.
func short(n int64) string {
	amount, prefix := humanize.ComputeSI(float64(n))
	return humanize.FtoaWithDigits(amount, 1) + prefix
}

// plainTable is one without lines.
func plainTable(header ...string) table.Writer {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	t.SetStyle(style)
	row := table.Row{}
	for _, title := range header {
		row = append(row, title)
	}
	if len(row) > 0 {
		t.AppendHeader(row)
	}
	return t
}
