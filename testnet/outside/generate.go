package outside

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math/rand/v2"

	"golang.org/x/mod/module"
)

// Shape describes a synthetic module: enough of it to be like real ones in what
// matters to a proxy.
type Shape struct {
	Path     string
	Versions []string // oldest first
	Files    int      // Go files in each version, at least one
	FileSize int      // bytes of each, about; the default is 2,000
	Change   int      // percentage of files that a version changes
	Large    int      // bytes of one more file that does not compress; 0 for none
	Requires []module.Version
	NoGoMod  bool     // a module that predates modules
	Retract  []string // versions that the newest version's go.mod retracts
}

// Grow adds the versions of a synthetic module to the world. The same seed and
// shape give the same bytes. Each module is a valid package that a go command can
// build: its name is that of package p, in the module's root.
func (w *World) Grow(seed uint64, s Shape) error {
	if s.FileSize == 0 {
		s.FileSize = 2000
	}
	for i, v := range s.Versions {
		files := s.files(seed, i)
		if _, err := w.AddFiles(module.Version{Path: s.Path, Version: v}, files); err != nil {
			return err
		}
	}
	return nil
}

func (s Shape) files(seed uint64, version int) map[string][]byte {
	files := map[string][]byte{"LICENSE": []byte("Anybody may do anything with this.\n")}
	if !s.NoGoMod {
		files["go.mod"] = s.gomod(version == len(s.Versions)-1)
	}
	for i := range max(s.Files, 1) {
		name := fmt.Sprintf("f%d.go", i)
		if i >= 100 {
			name = fmt.Sprintf("d%d/%s", i/100, name)
		}
		files[name] = s.source(rng(seed, s.Path, i, s.changedAt(seed, i, version)), i)
	}
	if s.Large > 0 {
		noise := make([]byte, s.Large)
		r := rng(seed, s.Path, -1, 0)
		for i := range noise {
			noise[i] = byte(r.Uint32())
		}
		files["testdata/large.bin"] = noise
	}
	return files
}

func (s Shape) gomod(newest bool) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "module %s\n\ngo 1.21\n", s.Path)
	for _, r := range s.Requires {
		fmt.Fprintf(&b, "\nrequire %s %s\n", r.Path, r.Version)
	}
	if newest {
		for _, v := range s.Retract {
			fmt.Fprintf(&b, "\nretract %s // made in haste\n", v)
		}
	}
	return b.Bytes()
}

// changedAt is the newest version up to the given one in which file i changed.
func (s Shape) changedAt(seed uint64, i, version int) int {
	for v := version; v > 0; v-- {
		if rng(seed, s.Path, i, v).IntN(100) < s.Change {
			return v
		}
	}
	return 0
}

// source writes Go of about FileSize bytes that compresses as code does.
func (s Shape) source(r *rand.Rand, i int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "// Package p is synthetic.\npackage p\n")
	for n := 0; b.Len() < s.FileSize; n++ {
		fmt.Fprintf(&b, "\n// Sum%d_%d adds %d.\nfunc Sum%d_%d(x uint64) uint64 { return x + %#x }\n",
			i, n, r.IntN(1000), i, n, r.Uint64())
	}
	return b.Bytes()
}

func rng(seed uint64, path string, file, version int) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d %d", path, file, version)
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// Generate makes a world of n modules that require each other without cycles,
// with the variety that upstreams have: major versions, capitals, pre-releases,
// retractions, modules without go.mod, versions of commits, a module of two
// thousand files and one with a file of 3 MiB.
func Generate(seed uint64, n int) (*World, error) {
	w := new(World)
	var made []module.Version // newest version of each module so far
	for i := range n {
		s := variety(seed, i)
		r := rng(seed, "requires", i, 0)
		for range min(len(made), r.IntN(4)) {
			s.Requires = addRequire(s.Requires, made[r.IntN(len(made))])
		}
		if err := w.Grow(seed, s); err != nil {
			return nil, err
		}
		made = append(made, module.Version{Path: s.Path, Version: s.Versions[len(s.Versions)-1]})
	}
	return w, nil
}

func addRequire(list []module.Version, m module.Version) []module.Version {
	for _, have := range list {
		if have.Path == m.Path {
			return list
		}
	}
	return append(list, m)
}

// variety is the i-th module of a generated world.
func variety(seed uint64, i int) Shape {
	r := rng(seed, "variety", i, 0)
	s := Shape{
		Path:     fmt.Sprintf("example.test/m%03d", i),
		Versions: []string{"v1.0.0", "v1.0.1", "v1.1.0"},
		Files:    1 + r.IntN(40), FileSize: 500 + r.IntN(6000), Change: r.IntN(40),
	}
	switch i % 12 {
	case 1:
		s.Path, s.Versions = s.Path+"/v2", []string{"v2.0.0", "v2.0.1"}
	case 2:
		s.Path = fmt.Sprintf("example.test/CamelCase/M%03d", i)
	case 3:
		s.Versions = []string{"v0.9.0-rc.1", "v0.9.0", "v1.0.0-beta.2"}
	case 4:
		s.Retract = []string{"v1.0.1"}
	case 5:
		s.NoGoMod, s.Versions = true, []string{"v1.0.0", "v2.3.4+incompatible"}
	case 6:
		s.Versions = []string{module.PseudoVersion("v0", "", Epoch, fmt.Sprintf("%012x", r.Uint64()>>16))}
	case 7:
		s.Files, s.FileSize, s.Versions = 2000, 200, []string{"v1.0.0"}
	case 8:
		s.Large = 3 << 20
	case 9:
		s.Path = fmt.Sprintf("gopkg.in/m%03d.v2", i)
		s.Versions = []string{"v2.1.0", "v2.1.1"}
	}
	return s
}
