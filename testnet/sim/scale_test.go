package sim

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/verify"
)

// Sizes of the measurements that TestScale makes.
var (
	sizes       = []int{30, 100, 300, 1000, 3000, 10_000} // members
	crowdSizes  = []int{100, 300, 1000, 3000, 10_000}
	rushSizes   = []int{1000, 3000, 10_000}
	rosterSizes = []int{30, 100, 300, 600, 1000, 1800}
	repairSizes = []int{100, 300, 1000, 3000}
	releases    = []int{100, 300, 1000} // among usual members
	losses      = []float64{0.01, 0.05, 0.1, 0.2, 1.0 / 3}
	restarts    = []time.Duration{0, 3 * time.Minute, 90 * time.Second, time.Minute, 20 * time.Second}
)

const (
	usual      = 200 // members, where something else is varied
	usualLoss  = 0.1
	usualNames = 300 // releases, likewise
	askedTimes = 100
	crowdTime  = 5 * time.Second // within which all ask, and so more at a time the more there are
	rushTime   = time.Second
	fetchTime  = 2 * time.Second
)

// TestScale makes all measurements and keeps the results in the file that
// MESHPROXY_SIM names; without it, it is skipped. It takes tens of minutes.
// MESHPROXY_SEED chooses another world; MESHPROXY_SIM_MOST leaves larger ones out.
func TestScale(t *testing.T) {
	file := os.Getenv("MESHPROXY_SIM")
	if file == "" {
		t.Skip("MESHPROXY_SIM names no file for the results")
	}
	s := &scale{t: t, file: file, most: 1 << 30, Results: Results{Date: time.Now().UTC().Format(time.DateOnly), Go: runtime.Version(), Seed: 1}}
	for name, to := range map[string]func(uint64){
		"MESHPROXY_SEED":     func(n uint64) { s.Seed = n },
		"MESHPROXY_SIM_MOST": func(n uint64) { s.most = int(n) },
	} {
		if text := os.Getenv(name); text != "" {
			n, err := strconv.ParseUint(text, 10, 63)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			to(n)
		}
	}
	s.rosters()
	s.questions()
	s.repairs()
	s.crowds()
}

type scale struct {
	Results
	t    *testing.T
	file string
	most int
}

// measure runs one measurement in a world of its own, unless that is too large, and
// keeps what there is so far.
func (s *scale) measure(name string, cfg Config, releases int, run func(t *testing.T, w *World, all []*Release)) {
	if cfg.Members > s.most {
		return
	}
	cfg.Seed = s.Seed
	s.t.Run(fmt.Sprintf("%s of %d members and %d releases", name, cfg.Members, releases), func(t *testing.T) {
		simulate(t, cfg, releases, run)
	})
	if err := s.Save(s.file); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scale) rosters() {
	for _, n := range rosterSizes {
		if n > s.most {
			continue
		}
		r, err := MeasureRoster(s.Seed, n)
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Logf("%+v", r)
		s.Rosters = append(s.Rosters, r)
	}
}

func (s *scale) questions() {
	for _, n := range sizes {
		s.measure("questions", Config{Members: n}, 2*askedTimes, func(t *testing.T, w *World, all []*Release) {
			q, err := w.MeasureQuestions(t.Context(), all, askedTimes)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", q)
			s.Questions = append(s.Questions, q)
		})
	}
}

func (s *scale) crowds() {
	for _, n := range crowdSizes {
		s.crowd("crowd", n, crowdTime, &s.Crowds)
	}
	for _, n := range rushSizes {
		s.crowd("rush", n, rushTime, &s.Rushes)
	}
}

func (s *scale) crowd(name string, members int, within time.Duration, to *[]Crowd) {
	s.measure(name, Config{Members: members, Upstream: fetchTime}, 1, func(t *testing.T, w *World, all []*Release) {
		c, err := w.MeasureCrowd(t.Context(), all[0], within)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", c)
		*to = append(*to, c)
	})
}

func (s *scale) repairs() {
	for _, n := range repairSizes {
		s.repair("repair", n, usualNames, usualLoss, 0, &s.ByMembers)
	}
	for _, n := range releases {
		s.repair("repair", usual, n, usualLoss, 0, &s.ByReleases)
	}
	for _, part := range losses {
		s.repair(fmt.Sprintf("loss of %.0f %%", 100*part), usual, usualNames, part, 0, &s.ByLoss)
	}
	for _, every := range restarts {
		s.repair(fmt.Sprintf("restart every %v", every), usual, usualNames, usualLoss, every, &s.ByRestarts)
	}
}

func (s *scale) repair(name string, members, releases int, part float64, every time.Duration, to *[]Repaired) {
	s.measure(name, Config{Members: members, Repair: true}, releases, func(t *testing.T, w *World, all []*Release) {
		if err := w.Fill(t.Context(), all, verify.Zip); err != nil {
			t.Fatal(err)
		}
		if !w.Restore(all, time.Hour) {
			t.Error("not every release has its copies an hour after its fetch")
		}
		s.States = append(s.States, w.MeasureState(releases))
		r, err := w.MeasureRepair(all, part, every, 4*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", r)
		*to = append(*to, r)
	})
}
