package testnet

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/testnet/outside"
)

// TestSoak does to a mesh what the years do, in an order drawn from a seed, and
// checks every office as it goes. MESHPROXY_SOAK says for how long, as a duration;
// without it a few steps are done. MESHPROXY_SEED repeats a run.
func TestSoak(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("MESHPROXY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MESHPROXY_SEED=%d", seed)
	end, steps := time.Time{}, 12
	if s := os.Getenv("MESHPROXY_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		end, steps = time.Now().Add(d), 0
	}
	s := newSoak(t, seed)
	for i := 0; i < steps || time.Now().Before(end); i++ {
		s.step()
		if i%4 == 3 {
			s.Check()
		}
		if t.Failed() {
			t.Fatalf("after step %d of seed %d", i, seed)
		}
	}
	s.heal()
	s.everywhere()
	s.Check()
}

// soak is a run of random steps.
type soak struct {
	*surroundings
	t    *testing.T
	rng  *rand.Rand
	mend []func()
}

// most is how many offices a soak has; each is a full node, on two cores.
const most = 5

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{surroundings: surround(t, generated(t, seed, 7)), t: t, rng: rand.New(rand.NewPCG(seed, 1))}
	s.Start(2, s.online())
	return s
}

func (s *soak) step() {
	steps := []struct {
		name   string
		weight int
		do     func()
	}{
		{"ask", 10, s.ask},
		{"ask everybody for one thing", 4, s.stampede},
		{"a new office", 2, s.grow},
		{"an office ends", 3, s.stop},
		{"an office comes back", 4, s.restart},
		{"the upstream goes", 1, s.upstreamGoes},
		{"the upstream comes back", 2, s.upstreamReturns},
		{"the upstream breaks", 2, s.breakUpstream},
		{"the upstream is mended", 2, s.mendUpstream},
	}
	total := 0
	for _, st := range steps {
		total += st.weight
	}
	n := s.rng.IntN(total)
	for _, st := range steps {
		if n -= st.weight; n < 0 {
			s.t.Logf("%s", st.name)
			st.do()
			return
		}
	}
}

func (s *soak) running() []*Office {
	return slices.DeleteFunc(s.Offices(), func(o *Office) bool { return !o.Running() })
}

func (s *soak) pick(list []*Office) *Office { return list[s.rng.IntN(len(list))] }

// ask gets files of releases, some at once, from any office. They may fail, but
// not with "not found", and what comes must be right.
func (s *soak) ask() {
	releases, offices := s.world.Releases(), s.running()
	var wg sync.WaitGroup
	for range 8 {
		r, o := releases[s.rng.IntN(len(releases))], s.pick(offices)
		kind := []string{"info", "mod", "zip"}[s.rng.IntN(3)]
		wg.Go(func() { s.get(o, r, kind) })
	}
	wg.Wait()
}

// stampede asks every office for the same zip at once.
func (s *soak) stampede() {
	releases := s.world.Releases()
	r := releases[s.rng.IntN(len(releases))]
	var wg sync.WaitGroup
	for _, o := range s.running() {
		wg.Go(func() { s.get(o, r, "zip") })
	}
	wg.Wait()
}

func (s *soak) get(o *Office, r *outside.Release, kind string) {
	path, err := FilePath(r.Version, kind)
	if err != nil {
		s.t.Error(err)
		return
	}
	status, body, err := o.Get(path)
	switch {
	case err != nil:
		// Cut off: the upstream broke while the answer was under way.
	case status == http.StatusNotFound || status == http.StatusGone:
		s.t.Errorf("office %s says that %s does not exist: %.300s", o.Name, path, body)
	case status == http.StatusOK:
		if err := same(r, kind, body); err != nil {
			s.t.Errorf("office %s: %s: %v", o.Name, path, err)
		}
	}
}

// same compares an answer with the truth.
func same(r *outside.Release, kind string, body []byte) error {
	switch kind {
	case "info":
		if string(body) != string(r.Info) {
			return fmt.Errorf("info %q, want %q", body, r.Info)
		}
		return nil
	case "mod":
		if string(body) != string(r.Mod) {
			return fmt.Errorf("go.mod %q, want %q", body, r.Mod)
		}
		return nil
	}
	want, err := r.H1()
	if err != nil {
		return err
	}
	if got, err := outside.HashZip(body); err != nil || got != want {
		return fmt.Errorf("zip hashes to %s, want %s: %w", got, want, err)
	}
	return nil
}

func (s *soak) grow() {
	all := s.Offices()
	if n := len(all); n < most && all[0].Running() { // the founder is the admin
		s.Join(string(rune('a'+n)), all[0], s.online())
	}
}

func (s *soak) stop() {
	if r := s.running(); len(r) > 1 {
		s.pick(r).Stop()
	}
}

func (s *soak) restart() {
	stopped := slices.DeleteFunc(s.Offices(), (*Office).Running)
	if len(stopped) > 0 {
		s.pick(stopped).Restart()
	}
}

func (s *soak) upstreamGoes() { s.upstream.Stop() }

func (s *soak) upstreamReturns() {
	if err := s.upstream.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *soak) breakUpstream() {
	faults := []outside.Fault{
		{Every: 3, Status: 503, Text: "too busy"},
		{Every: 2, Drop: true},
		{Every: 2, Truncate: true},
		{Every: 2, Kinds: []outside.Kind{outside.Zip, outside.Mod}, Edit: outside.Forge},
		{Delay: 50 * time.Millisecond},
	}
	s.mend = append(s.mend, s.upstream.Break(faults[s.rng.IntN(len(faults))]))
}

func (s *soak) mendUpstream() {
	for _, mend := range s.mend {
		mend()
	}
	s.mend = nil
}

// heal brings everything back.
func (s *soak) heal() {
	s.upstreamReturns()
	s.mendUpstream()
	for _, o := range s.Offices() {
		if !o.Running() {
			o.Restart()
		}
	}
	s.Settle()
}

// everywhere gets every zip from every office: once all is well, all is had.
func (s *soak) everywhere() {
	for _, o := range s.Offices() {
		for _, r := range s.world.Releases() {
			path, err := FilePath(r.Version, "zip")
			if err != nil {
				s.t.Fatal(err)
			}
			o.untilServed(path)
		}
	}
}
