package protocol_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshproxy/meshproxy/protocol"
)

// pipe is a listener for one connection in memory, whose deadlines run on the
// clock of a synctest bubble.
type pipe struct {
	accept chan net.Conn
	closed chan struct{}
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accept:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error { close(p.closed); return nil }

func (p *pipe) Addr() net.Addr { return &net.TCPAddr{} }

// dialPipe starts the real server and returns a connection to it and a function
// that ends both.
func dialPipe(b protocol.Backend, o protocol.HandlerOptions) (net.Conn, func()) {
	return dialServer(protocol.NewHandler(b, o))
}

func dialServer(h http.Handler) (net.Conn, func()) {
	l := &pipe{make(chan net.Conn, 1), make(chan struct{})}
	client, server := net.Pipe()
	l.accept <- server
	s := protocol.NewServer(h, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l) // ends with Close
	}()
	return client, func() {
		client.Close()
		s.Close()
		<-done
	}
}

const getZip = "GET " + zipPath + " HTTP/1.1\r\nHost: x\r\n\r\n"

// TestClientStalls reads nothing of an endless answer: the server gives up after
// the stall, no sooner and not much later.
func TestClientStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall = time.Minute
		done := make(chan error, 1)
		conn, end := dialPipe(fixed{newMemory(t), func(context.Context) (*protocol.Answer, error) {
			return &protocol.Answer{Stream: endless{done}, Size: -1}, nil
		}}, protocol.HandlerOptions{Stall: stall})
		defer end()
		start := time.Now()
		io.WriteString(conn, getZip)
		var ne net.Error
		if err := <-done; !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("write ended with %v, want a timeout", err)
		}
		if took := time.Since(start); took < stall/2 || took > stall+time.Second {
			t.Errorf("gave up after %v, want %v", took, stall)
		}
	})
}

// TestSlowClient reads an answer for fifty times the stall, but never stalls.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall, pieces, piece = time.Minute, 250, 32 << 10
		conn, end := dialPipe(fixed{newMemory(t), func(context.Context) (*protocol.Answer, error) {
			return &protocol.Answer{Content: bytes.NewReader(make([]byte, pieces*piece))}, nil
		}}, protocol.HandlerOptions{Stall: stall})
		defer end()
		io.WriteString(conn, getZip)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		var n int64
		for err == nil {
			var m int64
			m, err = io.CopyN(io.Discard, resp.Body, piece)
			n += m
			time.Sleep(stall / 5)
		}
		if err != io.EOF || n != pieces*piece {
			t.Errorf("%d bytes of %d, %v", n, pieces*piece, err)
		}
	})
}

// TestLateAnswer has fetches that take longer than clients may stall, the second
// on a connection that has been used before.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall = time.Minute
		conn, end := dialPipe(fixed{newMemory(t), func(context.Context) (*protocol.Answer, error) {
			time.Sleep(10 * stall)
			return &protocol.Answer{Data: []byte("late")}, nil
		}}, protocol.HandlerOptions{Stall: stall})
		defer end()
		for range 2 {
			io.WriteString(conn, getZip)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "late" {
				t.Errorf("%q, %v", body, err)
			}
		}
	})
}

// endless writes until it cannot.
type endless struct{ done chan error }

func (e endless) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for buf := make([]byte, 64<<10); ; {
		m, err := w.Write(buf)
		if n += int64(m); err != nil {
			e.done <- err
			return n, err
		}
	}
}

// TestRefusedBodyNeverComes: who is not served, and announces a body that it does not
// send, holds no connection for that.
func TestRefusedBodyNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := protocol.NewHandler(newMemory(t), protocol.HandlerOptions{})
		conn, end := dialServer(protocol.Clients(h, protocol.ClientOptions{Tokens: func() []protocol.Token { return nil }}))
		defer end()
		conn.SetReadDeadline(time.Now().Add(time.Hour))
		io.WriteString(conn, "GET "+zipPath+" HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
		in := bufio.NewReader(conn)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %d, want 401", resp.StatusCode)
		}
		if _, err := io.Copy(io.Discard, in); err != nil {
			t.Errorf("the connection stays open: %v", err)
		}
	})
}
