package outside

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// sendTime bounds one exchange of Send.
const sendTime = time.Minute

// test is the part of testing.TB that Send needs: this package is in a program, and
// that one in none.
type test interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Send writes a request to a server as it stands, so that nothing cleans its target,
// and returns the answer with its body. The first line of the request is method and
// target, each that follows a header.
func Send(t test, addr, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, sendTime)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(sendTime)); err != nil {
		t.Fatalf("%v", err)
	}
	line, headers, _ := strings.Cut(request, "\n")
	method, _, _ := strings.Cut(line, " ")
	fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", line)
	for h := range strings.Lines(headers) {
		fmt.Fprintf(conn, "%s\r\n", strings.TrimSpace(h))
	}
	io.WriteString(conn, "\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.300s: %v", line, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%.300s: %v", line, err)
	}
	return resp, string(body)
}
