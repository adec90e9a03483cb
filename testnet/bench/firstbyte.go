package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/meshproxy/meshproxy/testnet/wan"
)

// typicalZip is the size, in bytes, of the zip whose first byte is waited for.
const typicalZip = 1 << 20

// zipDir is where the go command keeps zips below a module cache, by the paths under
// which a proxy serves them.
const zipDir = "/cache/download/"

// nearestTo chooses the file whose size is nearest to size.
func nearestTo(size int64, of map[string]int64) (file string) {
	distance := func(file string) int64 { return max(of[file]-size, size-of[file]) }
	for f := range of {
		if file == "" || distance(f) < distance(file) || distance(f) == distance(file) && f < file {
			file = f
		}
	}
	return file
}

// firstByte asks the second office for one zip of which it knows nothing yet, and notes
// when the first byte of it came.
func (c *crossing) firstByte(ctx context.Context, at *wan.Site) error {
	_, path, ok := strings.Cut(c.typical, zipDir)
	if !ok {
		return fmt.Errorf("zip %s is not below %s", c.typical, zipDir)
	}
	t := &http.Transport{DialContext: at.DialContext}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+officeAddr+"/"+path, nil)
	if err != nil {
		return err
	}
	start := time.Now()
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		return fmt.Errorf("%s: first byte: %w", path, err)
	}
	c.first = append(c.first, c.since(start))
	n, err := io.Copy(io.Discard, resp.Body)
	if c.firstSize = n + 1; err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
