package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"

	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/wan"
)

// bare takes size bytes from one site to another in one HTTP answer over one
// connection: how long that takes is what the line, and the machine that plays it, can
// do now.
func bare(ctx context.Context, from, to *wan.Site, size int64) error {
	chunk := make([]byte, 1<<20)
	content := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for left := size; left > 0; left -= int64(len(chunk)) {
			if _, err := w.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
				return
			}
		}
	})
	s, err := outside.NewServerAt(content, netip.AddrPortFrom(from.IPv4(), 8090).String(), from.Listen)
	if err != nil {
		return err
	}
	defer s.Stop()
	t := &http.Transport{DialContext: to.DialContext}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL(), nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
		return fmt.Errorf("%d of %d bytes across the bare line: %w", n, size, err)
	}
	return nil
}
