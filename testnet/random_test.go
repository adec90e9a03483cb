package testnet

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"pgregory.net/rapid"
)

// What a random story is made of.
const (
	mostOffices = 5  // each is a full node, on two cores
	mostMoves   = 10 // in an act; half as many are usual, and so of acts
	longStory   = 12 // acts; a short story has one
	storyCopies = 2  // of each zip
	// mostKeys is how many new mesh keys an office may miss while it is away.
	mostKeys = 4
	// shrinkTime bounds the search for a shorter story that fails too.
	shrinkTime = 10 * time.Minute
)

// storyFiles are what random stories ask for.
var storyFiles = []string{
	"greet@v1.0.0.zip", "greet@v1.0.0.mod", "greet@v1.0.0.info", "greet@v1.1.0.zip", "greet@v1.1.0.info",
	"Capital/Letters@v1.0.0.zip", "large@v1.0.0.zip", "large@v1.1.0.zip", "large@v1.1.0.mod",
}

// TestSoak does to a mesh what the years do, as a story drawn at random, in the
// words of TestScenarios and checked like one. MESHPROXY_SOAK says for how long
// stories are drawn, as a duration; without it there is a short one. MESHPROXY_SEED
// repeats the first story of a run.
//
// Offices end as a signal ends them. What a kill leaves behind is for the tests of
// packages store and testnet/process, whose offices are processes.
//
// A story that fails is told again with less in it, each time in a new world, until
// nothing can be left out. What remains is printed; as a file below
// testdata/scenario, or named by MESHPROXY_STORY, it is run by TestScenarios.
func TestSoak(t *testing.T) {
	if os.Getenv("MESHPROXY_STORY") != "" {
		t.Skip("MESHPROXY_STORY names a story for TestScenarios")
	}
	acts, end := 1, time.Time{}
	if s := os.Getenv("MESHPROXY_SOAK"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		acts, end = longStory, time.Now().Add(d)
	}
	seed := rand.Uint64()
	if s := os.Getenv("MESHPROXY_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatalf("MESHPROXY_SEED: %v", err)
		}
	}
	for told := 1; ; told++ {
		t.Logf("story %d: MESHPROXY_SEED=%d", told, seed)
		tellRandom(t, t, seed, acts, func(script string) bool { return tell(t, script) })
		if !time.Now().Before(end) {
			return
		}
		seed = rand.Uint64()
	}
}

// tell runs a script in a world of its own.
func tell(t *testing.T, script string) bool {
	return t.Run("story", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "random.txtar")
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		params := stories()
		params.Files = []string{file}
		testscript.RunT(shim{t}, params)
	})
}

// tellRandom tells one story of at most so many acts, drawn from seed. If it fails,
// t fails with the shortest one that was found to fail too.
func tellRandom(settings testing.TB, t rapid.TB, seed uint64, acts int, tell func(script string) bool) {
	checks := "1"
	if testing.Short() {
		checks = "5" // of which rapid then makes a fifth
	}
	for name, value := range map[string]string{
		"rapid.checks": checks, "rapid.seed": fmt.Sprint(seed), "rapid.nofailfile": "true", "rapid.shrinktime": shrinkTime.String(),
	} {
		f := flag.Lookup(name)
		before := f.Value.String()
		settings.Cleanup(func() { _ = f.Value.Set(before) })
		if err := f.Value.Set(value); err != nil {
			settings.Fatal(err)
		}
	}
	outcomes := map[string]bool{} // many draws make the same story
	rapid.Check(t, func(rt *rapid.T) {
		calm := rapid.SliceOfN(drawMove(calmMoves), 0, mostMoves).Draw(rt, "calm")
		act := rapid.SliceOfN(drawMove(moves), 1, mostMoves)
		rest := rapid.SliceOfN(act, 1, acts).Draw(rt, "moves")
		script := newPlot(slices.Concat(calm, slices.Concat(rest...))).script()
		good, known := outcomes[script]
		if !known {
			good = tell(script)
			outcomes[script] = good
		}
		if !good {
			rt.Fatalf("this story fails:\n%s", script)
		}
	})
}

// move is one thing that happens. The numbers say to whom and what, as far as there
// is a choice when it happens.
type move struct {
	kind        string
	who, choice int
}

// moves are the kinds of moves, the usual ones more often. The first one is what
// shrinking prefers.
var moves = []string{
	"ask", "ask", "ask", "ask", "ask", "stampede", "stampede", "grow", "grow", "halt", "halt", "boot", "boot", "boot",
	"reboot", "upstream stop", "upstream start", "upstream start", "break", "break", "mend", "mend", "publish", "scrub", "leave", "revoke",
	"cut", "cut-way", "heal", "heal", "flip", "rotate", "rotate-without",
}

// calmMoves are those before the first trouble.
var calmMoves = []string{"ask", "stampede", "stampede", "stampede", "grow", "grow", "publish", "scrub"}

func drawMove(kinds []string) *rapid.Generator[move] {
	return rapid.Custom(func(t *rapid.T) move {
		return move{
			rapid.SampledFrom(kinds).Draw(t, "kind"),
			rapid.IntRange(0, mostOffices-1).Draw(t, "who"),
			rapid.IntRange(0, len(storyFiles)-1).Draw(t, "choice"),
		}
	})
}

// plot turns moves into a story, and so knows what is possible when.
type plot struct {
	lines     []string
	offices   []string // members, oldest first
	isUp      map[string]bool
	named     int // offices that there ever were
	published int
	keys      int             // that the mesh got after its first
	flipped   map[string]bool // offices with a damaged disk
	// troubled is set once anything has happened that may cost a second fetch, and asked
	// once anything has been fetched at all.
	troubled, asked bool
}

func newPlot(list []move) *plot {
	p := &plot{isUp: map[string]bool{}, flipped: map[string]bool{}}
	p.say("links")
	p.grow(0)
	for _, m := range list {
		p.add(m)
	}
	p.end()
	return p
}

func (p *plot) script() string { return strings.Join(p.lines, "\n") + "\n" }

func (p *plot) say(format string, args ...any) {
	p.lines = append(p.lines, fmt.Sprintf(format, args...))
}

// those returns the members that are up or not.
func (p *plot) those(up bool) (list []string) {
	for _, o := range p.offices {
		if p.isUp[o] == up {
			list = append(list, o)
		}
	}
	return list
}

// one picks an office that is up or not, or "".
func (p *plot) one(up bool, who int) string {
	if list := p.those(up); len(list) > 0 {
		return list[who%len(list)]
	}
	return ""
}

// add says a move, if it is possible now.
func (p *plot) add(m move) {
	up := p.one(true, m.who)
	switch m.kind {
	case "ask":
		p.asked = true
		p.say("try %s %s %s", up, storyFiles[m.choice], storyFiles[(m.choice+m.who+1)%len(storyFiles)])
	case "stampede":
		p.asked = true
		p.say("try all %s", storyFiles[m.choice])
	case "grow":
		p.grow(m.choice)
	case "halt":
		if len(p.those(true)) > 1 {
			p.trouble()
			p.say("halt %s", up)
			p.isUp[up] = false
		}
	case "boot":
		if down := p.one(false, m.who); down != "" {
			p.say("boot %s", down)
			p.isUp[down] = true
		}
	case "reboot":
		p.trouble()
		p.say("reboot %s", up)
	case "scrub":
		p.say("scrub %s %s", up, map[bool]string{true: "any", false: "0"}[p.flipped[up]])
	case "flip":
		p.trouble()
		p.flipped[up] = true
		p.say("halt %s", up)
		p.say("flip %s any", up)
		p.say("boot %s", up)
	case "rotate":
		if p.isUp["a"] && p.keys < mostKeys {
			p.rotate()
		}
	case "upstream stop":
		p.trouble()
		p.say("upstream stop")
	case "upstream start":
		p.say("upstream start")
	case "break":
		p.trouble()
		p.say("upstream %s", []string{"error", "flaky", "truncate zip", "forge zip mod", "late"}[m.choice%5])
	case "mend":
		p.say("upstream mend")
	case "publish":
		p.published++
		p.asked = true
		p.say("publish young@v1.%d.0 text", p.published)
		p.say("try %s young@v1.%[2]d.0.zip young@v1.%[2]d.0.mod", up, p.published)
	case "leave", "revoke", "rotate-without":
		p.part(m.kind, up)
	case "cut", "cut-way":
		if other := p.offices[m.choice%len(p.offices)]; other != up {
			p.trouble()
			p.say("%s %s %s", m.kind, up, other)
		}
	case "heal":
		p.say("heal")
	}
}

// grow adds an office; the first one, which invites, has the upstream.
func (p *plot) grow(choice int) {
	if len(p.offices) == mostOffices || p.named > 0 && !p.isUp["a"] {
		return
	}
	name := string(rune('a' + p.named))
	line := []string{"online", "online", "offline"}[choice%3]
	p.say("office %s %s replicas=%d", name, line, storyCopies)
	p.named++
	p.offices = append(p.offices, name)
	p.isUp[name] = true
	if !p.troubled && p.named > 1 {
		// Only offices that know each other fetch for each other.
		p.say("members %s", strings.Join(p.offices, " "))
	}
}

// trouble comes before whatever may cost a second fetch: so far there was one.
func (p *plot) trouble() {
	if !p.troubled && p.asked {
		p.say("once")
	}
	p.troubled = true
}

// rotate has the first office give the mesh a new key, and leave others behind.
func (p *plot) rotate(without ...string) {
	p.trouble()
	p.keys++
	p.say("%s", strings.Join(append([]string{"rotate a"}, without...), " "))
}

// part takes an office out of the mesh; the first one alone can throw others out.
func (p *plot) part(how, who string) {
	if who == "a" || len(p.those(true)) == 1 || how != "leave" && !p.isUp["a"] || how == "rotate-without" && p.keys == mostKeys {
		return
	}
	p.trouble()
	switch how {
	case "revoke":
		p.say("revoke a %s", who)
	case "leave":
		p.say("leave %s", who)
	default:
		p.rotate(who)
	}
	p.say("halt %s", who)
	for i, o := range p.offices {
		if o == who {
			p.offices = append(p.offices[:i:i], p.offices[i+1:]...)
			return
		}
	}
}

// end brings everything back: then what was damaged is whole, there are as many copies
// as there should be, and every office has everything.
func (p *plot) end() {
	p.trouble()
	p.say("heal")
	p.say("upstream start")
	p.say("upstream mend")
	if down := p.those(false); len(down) > 0 {
		p.say("boot %s", strings.Join(down, " "))
	}
	p.say("members-now %s", strings.Join(p.offices, " "))
	if hurt := slices.DeleteFunc(slices.Clone(p.offices), func(o string) bool { return !p.flipped[o] }); len(hurt) > 0 {
		for _, o := range append([]string{"a"}, hurt...) { // first who has an upstream
			p.say("until 200 %s large@v1.0.0.zip", o)
			p.say("until 200 %s large@v1.1.0.zip", o)
		}
		for _, o := range hurt {
			p.say("scrub %s 0", o)
		}
		p.say("healed")
	}
	p.say("replicated")
	for _, o := range p.offices {
		p.say("until 200 %s greet@v1.0.0.zip", o)
		p.say("until 200 %s large@v1.1.0.zip", o)
	}
}

// listener hears what rapid says of a run in place of a test.
type listener struct {
	rapid.TB
	failed bool
	heard  strings.Builder
}

func (l *listener) Helper()                   {}
func (l *listener) Name() string              { return "story" }
func (l *listener) Failed() bool              { return l.failed }
func (l *listener) Fail()                     { l.failed = true }
func (l *listener) FailNow()                  { l.failed = true }
func (l *listener) Log(args ...any)           { fmt.Fprintln(&l.heard, args...) }
func (l *listener) Logf(f string, a ...any)   { fmt.Fprintf(&l.heard, f+"\n", a...) }
func (l *listener) Errorf(f string, a ...any) { l.failed = true; l.Logf(f, a...) }

// TestShrinking holds that what is printed of a long story that fails is what makes
// it fail: here an office that is asked, after the upstream stopped and before it is
// back, which is no failure of the office's.
func TestShrinking(t *testing.T) {
	const want = "links\noffice a online replicas=2\nupstream stop\ntry a greet@v1.0.0.zip greet@v1.0.0.mod\n"
	worlds := 0
	judge := func(script string) bool {
		worlds++
		_, after, _ := strings.Cut(script, "\nupstream stop\n")
		before, _, _ := strings.Cut(after, "upstream start\n")
		return !strings.Contains(before, "try ")
	}
	for seed := uint64(1); ; seed++ {
		var l listener
		tellRandom(t, &l, seed, longStory, judge)
		if !l.failed {
			continue // a story in which it never comes to that
		}
		_, story, found := strings.Cut(l.heard.String(), "this story fails:\n")
		if !found || !strings.HasPrefix(strings.ReplaceAll(story, "        ", ""), want) {
			t.Errorf("shrunk in %d worlds to\n%s\nwant it to begin\n%s", worlds, story, want)
		}
		t.Logf("shrunk in %d worlds", worlds)
		return
	}
}
