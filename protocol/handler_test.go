package protocol_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/verify"
)

const zipPath = "/example.test/mod/@v/v1.0.0.zip"

// fixed is an office with one answer to requests for files.
type fixed struct {
	*memory
	answer func(ctx context.Context) (*protocol.Answer, error)
}

func (b fixed) File(ctx context.Context, _ verify.Name, _ protocol.Options) (*protocol.Answer, error) {
	return b.answer(ctx)
}

// pieces is content that arrives in pieces and may fail after them.
type pieces struct {
	pieces []string
	err    error
}

func (p pieces) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for _, s := range p.pieces {
		m, err := io.WriteString(w, s)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
	return n, p.err
}

func TestStream(t *testing.T) {
	failed := protocol.Unavailable("office b went away")
	for _, test := range []struct {
		name    string
		stream  pieces
		size    int64
		etag    string
		request http.Header
		status  int
		body    string
		cut     bool
	}{
		{name: "known size", stream: pieces{pieces: []string{"ab", "cd"}}, size: 4, status: 200, body: "abcd"},
		{name: "unknown size", stream: pieces{pieces: []string{"ab", "cd"}}, size: -1, status: 200, body: "abcd"},
		{name: "empty", stream: pieces{}, size: -1, status: 200},
		{name: "fails before the first byte", stream: pieces{err: failed}, size: 4, status: 503, body: "office b went away\n"},
		{name: "fails midway with known size", stream: pieces{[]string{"ab"}, failed}, size: 4, status: 200, body: "ab", cut: true},
		{name: "fails midway with unknown size", stream: pieces{[]string{strings.Repeat("ab", 1e5)}, failed}, size: -1, status: 200, body: strings.Repeat("ab", 1e5), cut: true},
		{name: "too short", stream: pieces{pieces: []string{"ab"}}, size: 4, status: 200, body: "ab", cut: true},
		{name: "range is not served", stream: pieces{pieces: []string{"abcd"}}, size: 4, request: http.Header{"Range": {"bytes=0-1"}}, status: 200, body: "abcd"},
		{name: "same tag", stream: pieces{err: failed}, size: 4, etag: "x", request: http.Header{"If-None-Match": {`"x"`}}, status: 304},
		{name: "other tag", stream: pieces{pieces: []string{"abcd"}}, size: 4, etag: "x", request: http.Header{"If-None-Match": {`"y"`}}, status: 200, body: "abcd"},
	} {
		t.Run(test.name, func(t *testing.T) {
			observed := make(chan protocol.Observation, 1)
			s := serve(t, fixed{newMemory(t), func(context.Context) (*protocol.Answer, error) {
				return &protocol.Answer{Stream: test.stream, Size: test.size, ETag: test.etag}, nil
			}}, protocol.HandlerOptions{Observe: func(o protocol.Observation) { observed <- o }})
			req, err := http.NewRequest(http.MethodGet, s.URL+zipPath, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = test.request
			resp, err := s.Client().Do(req)
			if err != nil {
				if test.cut { // before the headers were flushed
					return
				}
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if (err != nil) != test.cut {
				t.Errorf("reading: %v, want an error: %v", err, test.cut)
			}
			if resp.StatusCode != test.status || !test.cut && string(body) != test.body || !strings.HasPrefix(test.body, string(body)) {
				t.Errorf("status %d, body of %d bytes; want %d, %d", resp.StatusCode, len(body), test.status, len(test.body))
			}
			if o := <-observed; o.Cut != test.cut || o.Status != test.status || o.Request.Op != protocol.OpFile {
				t.Errorf("observed %+v", o)
			}
		})
	}
}

// rotten is held content that cannot be read to its end.
type rotten struct{ *bytes.Reader }

func (r rotten) Read(p []byte) (int, error) {
	if r.Len() < 1<<19 {
		return 0, errors.New("disk: checksum differs")
	}
	return r.Reader.Read(p[:min(len(p), 1000)])
}

func TestContentFailsMidway(t *testing.T) {
	closed := make(chan struct{})
	s := serve(t, fixed{newMemory(t), func(context.Context) (*protocol.Answer, error) {
		return &protocol.Answer{Content: rotten{bytes.NewReader(make([]byte, 1<<20))}, Closer: closer(func() { close(closed) })}, nil
	}}, protocol.HandlerOptions{})
	resp, err := s.Client().Get(s.URL + zipPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("%d bytes and a clean end, want an error", n)
	}
	<-closed
}

// TestFile serves a zip that is a file: whole, in part, and cut short.
func TestFile(t *testing.T) {
	b := newMemory(t)
	b.dir = t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16+1)
	path := filepath.Join(b.dir, "v1.0.0.zip")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, b, protocol.HandlerOptions{})
	for _, test := range []struct {
		name, ranges string
		want         []byte
	}{
		{"whole", "", want},
		{"part", "bytes=5-2000000", want[5:2000001]},
		{"end", "bytes=-7", want[len(want)-7:]},
	} {
		t.Run(test.name, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodGet, s.URL+zipPath, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.ranges != "" {
				req.Header.Set("Range", test.ranges)
			}
			resp, err := s.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, test.want) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, len(test.want))
			}
		})
	}
}

// sentFile writes a file as the store does that has a zip whole.
type sentFile struct {
	f    *os.File
	size int64
}

func (s sentFile) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, io.LimitReader(s.f, s.size))
}

// TestStreamedFile serves a stream that the kernel sends. The server finds nothing
// to complain of, and what is observed is what was sent.
func TestStreamedFile(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789abcdef"), 3<<20/16+1)
	path := filepath.Join(t.TempDir(), "whole.zip")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	observed := make(chan protocol.Observation, 1)
	h := protocol.NewHandler(fixed{newMemory(t), func(context.Context) (*protocol.Answer, error) {
		return &protocol.Answer{Stream: sentFile{f, int64(len(want))}, Size: int64(len(want))}, nil
	}}, protocol.HandlerOptions{Observe: func(o protocol.Observation) { observed <- o }})
	var complaints bytes.Buffer
	s := httptest.NewUnstartedServer(nil)
	s.Config = protocol.NewServer(h, slog.New(slog.NewTextHandler(&complaints, &slog.HandlerOptions{Level: slog.LevelDebug})))
	s.Start()
	resp, err := s.Client().Get(s.URL + zipPath)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
	}
	if o := <-observed; o.Status != http.StatusOK || o.Bytes != int64(len(want)) || o.Cut {
		t.Errorf("observed %+v", o)
	}
	s.Close() // the end of all writes to complaints
	if complaints.Len() > 0 {
		t.Errorf("the server complains: %s", &complaints)
	}
}

// panics is content whose reader has a bug.
type panics struct{ *bytes.Reader }

func (p panics) Read([]byte) (int, error) { panic("bug") }

func TestPanic(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func(context.Context) (*protocol.Answer, error)
		cut    bool
	}{
		{"before an answer", func(context.Context) (*protocol.Answer, error) { panic("bug") }, false},
		{"in an answer", func(context.Context) (*protocol.Answer, error) {
			return &protocol.Answer{Content: panics{bytes.NewReader(make([]byte, 1<<20))}}, nil
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log bytes.Buffer
			observed := make(chan protocol.Observation, 1)
			s := serve(t, fixed{newMemory(t), test.answer}, protocol.HandlerOptions{
				Log: slog.New(slog.NewTextHandler(&log, nil)), Observe: func(o protocol.Observation) { observed <- o },
			})
			resp, err := s.Client().Get(s.URL + zipPath)
			if test.cut != (err != nil) {
				t.Fatalf("%v, want a cut connection: %v", err, test.cut)
			}
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusInternalServerError {
					t.Errorf("status %d, want 500", resp.StatusCode)
				}
			}
			if o := <-observed; o.Cut != test.cut {
				t.Errorf("observed %+v", o)
			}
			if !strings.Contains(log.String(), "panic=bug") {
				t.Errorf("log without the panic: %s", &log)
			}
		})
	}
}

type closer func()

func (c closer) Close() error { c(); return nil }

func TestClientGoes(t *testing.T) {
	asked, ended := make(chan struct{}), make(chan error, 1)
	s := serve(t, fixed{newMemory(t), func(ctx context.Context) (*protocol.Answer, error) {
		close(asked)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}, protocol.HandlerOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+zipPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-asked; cancel() }()
	if _, err := s.Client().Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("client: %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("backend: %v", err)
	}
}

// TestBodyThatNeverComes sends a GET that announces a body: it is answered, and
// the connection closed.
func TestBodyThatNeverComes(t *testing.T) {
	s := serve(t, newMemory(t), protocol.HandlerOptions{})
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /example.test/mod/@v/list HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("status %d, closing %v; want 200 and closing", resp.StatusCode, resp.Close)
	}
}

func TestHopsReachBackend(t *testing.T) {
	hops := make(chan string, 1)
	s := serve(t, fixed{newMemory(t), func(ctx context.Context) (*protocol.Answer, error) {
		hops <- protocol.Hops(ctx)
		return &protocol.Answer{}, nil
	}}, protocol.HandlerOptions{Self: "node-a"})
	req, err := http.NewRequest(http.MethodGet, s.URL+zipPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(protocol.HopHeader, "node-b , node-c")
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := <-hops; got != "node-b,node-c" {
		t.Errorf("hops %q", got)
	}
}

func TestIndexFails(t *testing.T) {
	b := newMemory(t)
	b.indexErr = protocol.Unavailable("store is closed")
	s := serve(t, b, protocol.HandlerOptions{})
	resp, err := s.Client().Get(s.URL + "/index")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", resp.StatusCode)
	}
}
