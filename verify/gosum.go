package verify

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/mod/module"
)

// Limits of a go.sum file: its size and the length of a line, in bytes.
const (
	MaxGoSum     = 64 << 20
	maxGoSumLine = 4 << 10
)

// goModSuffix marks the version of a go.sum line that is about the go.mod alone.
const goModSuffix = "/go.mod"

// ParseGoSum reads a go.sum or go.work.sum file: on each line a module path, a
// version, perhaps with /go.mod, and an h1 hash. Blank lines and repeated lines
// are allowed, as the go command allows them; anything else that is not such a
// line, and two hashes for one file, are errors that name the line. Every pin's
// Origin is origin with the line number.
func ParseGoSum(origin string, data []byte) ([]Pin, error) {
	if len(data) > MaxGoSum {
		return nil, fmt.Errorf("%s: %d bytes, at most %d allowed", origin, len(data), MaxGoSum)
	}
	var pins []Pin
	seen := make(map[Name]Pin)
	for number := 1; len(data) > 0; number++ {
		var line []byte
		line, data, _ = bytes.Cut(data, []byte{'\n'})
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		pin, err := parseGoSumLine(line)
		pin.Origin = fmt.Sprintf("%s:%d", origin, number)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", pin.Origin, err)
		}
		old, repeated := seen[pin.Name]
		if repeated && old.Digest != pin.Digest {
			return nil, pin.mismatch(old)
		}
		if !repeated {
			seen[pin.Name] = pin
			pins = append(pins, pin)
		}
	}
	return pins, nil
}

func parseGoSumLine(line []byte) (Pin, error) {
	var pin Pin
	if len(line) > maxGoSumLine {
		return pin, fmt.Errorf("line of %d bytes, at most %d allowed", len(line), maxGoSumLine)
	}
	f := strings.Fields(string(line))
	if len(f) != 3 {
		return pin, fmt.Errorf("%d fields in %.200q: want module path, version and hash", len(f), line)
	}
	version, isMod := strings.CutSuffix(f[1], goModSuffix)
	pin.Name = Name{Module: module.Version{Path: f[0], Version: version}, Kind: Zip}
	if isMod {
		pin.Name.Kind = Mod
	}
	if err := pin.Name.Check(); err != nil {
		return pin, err
	}
	var err error
	pin.Digest, err = ParseH1(f[2])
	return pin, err
}
