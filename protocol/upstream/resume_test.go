package upstream_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// breaking serves content, and cuts the connection after some bytes of it as
// often as it is told.
type breaking struct {
	content []byte
	tag     string
	after   int // bytes of each answer that is cut
	cuts    int
	lie     func(h http.Header) // about an answer for a range
	moved   bool                // to another host, where every request is sent

	asked  int
	ranges []string
}

func (b *breaking) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	b.asked++
	b.ranges = append(b.ranges, r.Header.Get("Range"))
	if b.tag != "" {
		rw.Header().Set("ETag", b.tag)
	}
	w := &cutting{ResponseWriter: rw, b: b, left: 1 << 30}
	if b.asked <= b.cuts {
		w.left = b.after
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b.content))
}

type cutting struct {
	http.ResponseWriter
	b    *breaking
	left int
}

func (w *cutting) WriteHeader(status int) {
	if status == http.StatusPartialContent && w.b.lie != nil {
		w.b.lie(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *cutting) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(len(p), w.left)])
	if w.left -= n; w.left == 0 {
		http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// TestZipIsResumed holds that a zip whose transfer breaks off goes on where it
// was if the upstream can say that it is the same, and starts anew if not.
func TestZipIsResumed(t *testing.T) {
	t.Run("in memory", func(t *testing.T) { resumed(t, 100_000) })
	t.Run("in a file", func(t *testing.T) { resumed(t, 1_200_000) })
}

// resumed tests zips whose transfers break off after as many bytes as unit says.
func resumed(t *testing.T, unit int) {
	content := []byte(strings.Repeat("0123456789abcdef", 10*unit/16+1))
	from := func(units int) string { return fmt.Sprintf("bytes=%d-", units*unit) }
	for _, test := range []struct {
		name   string
		b      breaking
		change func(b *breaking) // before the second request
		ranges []string
		ok     bool
	}{
		{name: "nothing breaks", b: breaking{tag: `"a"`}, ranges: []string{""}, ok: true},
		{name: "breaks more often than a request is tried", b: breaking{tag: `"a"`, cuts: 5, after: unit},
			ranges: []string{"", from(1), from(2), from(3), from(4), from(5)}, ok: true},
		{name: "stands at another host", b: breaking{tag: `"a"`, cuts: 2, after: unit, moved: true}, ranges: []string{"", from(1), from(2)}, ok: true},
		{name: "no tag", b: breaking{cuts: 1, after: unit}, ranges: []string{"", ""}, ok: true},
		{name: "weak tag", b: breaking{tag: `W/"a"`, cuts: 1, after: unit}, ranges: []string{"", ""}, ok: true},
		{name: "no tag, and breaks again and again", b: breaking{cuts: 9, after: unit}, ranges: []string{"", "", ""}},
		{name: "another file by then", b: breaking{tag: `"a"`, cuts: 1, after: unit}, ranges: []string{"", from(1)}, ok: true,
			change: func(b *breaking) { b.tag, b.content = `"b"`, bytes.ToUpper(b.content) }},
		{name: "shorter file under the same tag", b: breaking{tag: `"a"`, cuts: 1, after: unit}, ranges: []string{"", from(1), ""}, ok: true,
			change: func(b *breaking) { b.content = b.content[:1000] }},
		{name: "answer for another range", b: breaking{tag: `"a"`, cuts: 1, after: unit,
			lie: func(h http.Header) { h.Set("Content-Range", "bytes 5-"+strconv.Itoa(len(content)-1)+"/*") }},
			ranges: []string{"", from(1), ""}, ok: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &test.b
			b.content = content
			w, base := newWorld(t), ""
			answer := func(rw http.ResponseWriter, r *http.Request) {
				if b.asked == 1 && test.change != nil {
					test.change(b)
				}
				b.ServeHTTP(rw, r)
			}
			if w.all, base = answer, w.URL; b.moved {
				first := newWorld(t)
				first.all = func(rw http.ResponseWriter, r *http.Request) {
					http.Redirect(rw, r, w.URL+r.URL.Path, http.StatusFound)
				}
				base = first.URL
			}
			f, err := parse(t, base, upstream.Options{}).File(t.Context(), name(modA, "v1.0.0", verify.Zip))
			if got := strings.Join(b.ranges, ","); got != strings.Join(test.ranges, ",") {
				t.Errorf("asked for the ranges %q, want %q", got, test.ranges)
			}
			if (err == nil) != test.ok {
				t.Fatalf("error %v, want success: %v", err, test.ok)
			}
			if err != nil {
				return
			}
			if got, err := io.ReadAll(io.NewSectionReader(f.Content(), 0, f.Size)); err != nil || !bytes.Equal(got, b.content) || f.Size != int64(len(got)) {
				t.Errorf("%d bytes, size %d, %v; want what the upstream has, %d bytes", len(got), f.Size, err, len(b.content))
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
