package bench

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
)

// report is what is printed: Markdown as it comes, or one document in the end.
type report struct {
	w      io.Writer
	isJSON bool
	parts  []part
}

// part is a paragraph, or a table: for each row the cells by the titles of columns.
type part struct {
	Text string              `json:"text,omitempty"`
	Rows []map[string]string `json:"rows,omitempty"`
}

// say adds a paragraph.
func (r *report) say(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.parts = append(r.parts, part{Text: text})
	if !r.isJSON {
		fmt.Fprintf(r.w, "%s\n\n", text)
	}
}

// table adds one; rows may be shorter than the header.
func (r *report) table(header table.Row, rows []table.Row) {
	t, p := table.NewWriter(), part{}
	t.AppendHeader(header)
	t.AppendRows(rows)
	for _, row := range rows {
		cells := map[string]string{}
		for i, cell := range row {
			cells[fmt.Sprint(header[i])] = fmt.Sprint(cell)
		}
		p.Rows = append(p.Rows, cells)
	}
	r.parts = append(r.parts, p)
	if !r.isJSON {
		fmt.Fprintf(r.w, "%s\n\n", t.RenderMarkdown())
	}
}

// end prints what was held back.
func (r *report) end() error {
	if !r.isJSON {
		return nil
	}
	enc := json.NewEncoder(r.w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r.parts)
}
