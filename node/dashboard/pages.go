package dashboard

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/meshproxy/meshproxy/node"
)

// pages are the templates, each page with the layout around it.
type pages struct {
	by map[string]*template.Template
}

var pageNames = []string{"overview", "modules", "module", "alarms", "help", "error"}

// parsePages panics if the embedded templates do not parse, as a test sees.
func parsePages(docs string) *pages {
	p := &pages{by: make(map[string]*template.Template)}
	base := template.Must(template.New("layout.html").Funcs(functions(docs)).ParseFS(assets, "assets/layout.html", "assets/parts.html"))
	for _, name := range pageNames {
		p.by[name] = template.Must(template.Must(base.Clone()).ParseFS(assets, "assets/"+name+".html"))
	}
	return p
}

func functions(docs string) template.FuncMap {
	return template.FuncMap{
		"bytes": func(n int64) string { return humanize.IBytes(uint64(max(n, 0))) },
		"count": func(n any) string { return commas(n) },
		"ago":   ago,
		"took":  took,
		"iso":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"clock": func(t time.Time) string { return t.UTC().Format("15:04:05") + " UTC" },
		"day":   func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") + " UTC" },
		"docs":  func(m string) string { return docs + m },
		"verdict": func(v string) string {
			return map[string]string{node.Good: "good", node.Doubt: "doubt", node.Fault: "fault"}[v]
		},
		"join": strings.Join,
		"sub":  func(a, b int) int { return a - b },
		"add":  func(a, b int) int { return a + b },
	}
}

func commas(n any) string {
	switch n := n.(type) {
	case int:
		return humanize.Comma(int64(n))
	case int64:
		return humanize.Comma(n)
	case uint64:
		return humanize.Comma(int64(min(n, 1<<62)))
	}
	return fmt.Sprint(n)
}

// ago says how long ago a time was, roughly, so that it seldom changes.
func ago(t time.Time) string {
	switch d := time.Since(t); {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days ago", int(d.Hours()/24))
	}
}

// took writes a duration with two digits that matter.
func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

// write renders a page whole before its first byte is sent.
func (p *pages) write(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := p.by[name].Execute(&b, data); err != nil {
		http.Error(w, "this page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	b.WriteTo(w) // an error is the browser's, which is gone
}

// part renders a piece of the overview.
func (p *pages) part(name string, v *overview) (string, error) {
	var b strings.Builder
	err := p.by["overview"].ExecuteTemplate(&b, name, v)
	return b.String(), err
}

// kinds are the media types of what static serves; the system's own table may not
// know them.
var kinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// static serves style, script and icon.
func (p *pages) static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	kind := kinds[path.Ext(name)]
	data, err := assets.ReadFile("assets/" + name)
	if err != nil || kind == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}
