//go:build unix

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

const (
	flipEnv  = "MESHPROXY_TEST_FLIP_DIR"
	flipsEnv = "MESHPROXY_TEST_FLIPS"
)

const flipReleases = 40

// flipRelease is the same in both processes.
func flipRelease(i int) (module.Version, []testFile) {
	r := rand.New(rand.NewPCG(uint64(i), 3))
	m := module.Version{Path: "example.test/flip", Version: fmt.Sprintf("v1.%d.0", i)}
	files := []testFile{{"shared.go", []byte(strings.Repeat("shared ", 500))}}
	for j := range 10 {
		files = append(files, testFile{fmt.Sprintf("f%d.go", j), source(r, 200+r.IntN(8000))})
	}
	return m, files
}

// TestFlipChild is no test: it opens a store with a flipped bit and says what it
// finds.
func TestFlipChild(t *testing.T) {
	dir := os.Getenv(flipEnv)
	if dir == "" {
		t.Skip("only for TestBitFlips")
	}
	s, err := Open(dir, tinyOptions())
	if err != nil {
		fmt.Println("refused", err)
		os.Exit(0) // what Badger left running is no leak of the test
	}
	for i := range flipReleases {
		m, files := flipRelease(i)
		fmt.Println(readFlipped(s, m, files))
	}
	if _, err := s.Scrub(context.Background(), ScrubOptions{}); err != nil {
		fmt.Println("scrub", err)
	}
	if err := s.Close(); err != nil {
		fmt.Println("close", err)
	}
	fmt.Println("done")
}

// readFlipped reads a release to the end: "good", "missing", "damaged", or what is
// never to be: "wrong".
func readFlipped(s *Store, m module.Version, files []testFile) string {
	rec, err := s.Record(verify.Name{Module: m, Kind: verify.Zip})
	if err != nil {
		return outcome(err)
	}
	z, err := s.OpenZip(rec.Record.Digest)
	if err != nil {
		return outcome(err)
	}
	defer z.Close()
	var b bytes.Buffer
	if _, err := io.Copy(&b, z); err != nil {
		return outcome(err)
	}
	t := &testing.B{}
	got := contents(t, b.Bytes())
	for _, f := range files {
		if got[m.Path+"@"+m.Version+"/"+f.name] != string(f.data) {
			return "wrong " + f.name
		}
	}
	return "good"
}

func outcome(err error) string {
	switch {
	case errors.Is(err, ErrNotFound):
		return "missing"
	case errors.Is(err, ErrDamaged):
		return "damaged"
	}
	return "error " + err.Error()
}

// TestBitFlips flips bits in Badger's files. Whatever becomes of the store, no
// byte that it serves may be wrong.
func TestBitFlips(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	flips := 12
	if n, err := strconv.Atoi(os.Getenv(flipsEnv)); err == nil {
		flips = n
	}
	closed, killed := flipStores(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	count := make(map[string]int)
	for i := range flips {
		dir := t.TempDir()
		from := closed
		if i%3 == 0 {
			from = killed
		}
		copyDir(t, from, dir)
		name := flipBit(t, r, filepath.Join(dir, "badger"))
		cmd := exec.Command(os.Args[0], "-test.run=^TestFlipChild$")
		cmd.Env = append(os.Environ(), flipEnv+"="+dir)
		out, err := cmd.CombinedOutput()
		ended := "served"
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if word == "wrong" {
				t.Errorf("flip in %s: %s", name, line)
			}
			if word == "refused" {
				ended = "refused"
			}
			count[word]++
		}
		if err != nil {
			ended = "crashed"
			t.Logf("flip in %s: %v\n%.2000s", name, err, out)
		}
		count["store "+ended+" after a flip in "+filepath.Ext(name)]++
		os.RemoveAll(dir)
	}
	for _, word := range []string{"good", "missing", "damaged", "error", "wrong"} {
		t.Logf("%s: %d", word, count[word])
	}
	for what, n := range count {
		if strings.HasPrefix(what, "store ") {
			t.Logf("%s: %d", what, n)
		}
	}
}

// flipStores makes a store that was closed, and one as a kill leaves it.
func flipStores(t *testing.T) (closed, killed string) {
	t.Helper()
	closed, killed = t.TempDir(), t.TempDir()
	s, err := Open(closed, tinyOptions())
	if err != nil {
		t.Fatal(err)
	}
	for i := range flipReleases {
		m, files := flipRelease(i)
		putZip(t, s, m, makeZip(t, m, files...))
	}
	copyDir(t, closed, killed)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return closed, killed
}

// flipBit flips a bit of the written part of a random file.
func flipBit(t *testing.T, r *rand.Rand, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for {
		name := entries[r.IntN(len(entries))].Name()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		used := len(bytes.TrimRight(data, "\x00"))
		if used == 0 || name == "LOCK" {
			continue
		}
		data[r.IntN(used)] ^= 1 << r.IntN(8)
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
}
