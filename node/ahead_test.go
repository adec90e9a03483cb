package node

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

func aheadName(i int, k verify.Kind) verify.Name {
	return verify.Name{Module: module.Version{Path: fmt.Sprintf("example.test/m%04d", i), Version: "v1.0.0"}, Kind: k}
}

// walk is a client's way through count modules, up to their .info.
func walk(a *ahead, from, count int) {
	for _, k := range []verify.Kind{verify.Mod, verify.Info} {
		for i := range count {
			a.asked(aheadName(from+i, k))
		}
	}
}

func TestAhead(t *testing.T) {
	clock := func() (*ahead, *time.Time) {
		now := time.Unix(1e9, 0)
		a := newAhead()
		a.now = func() time.Time { return now }
		return a, &now
	}
	// read begins everything that is due, and returns how many steps it reaches.
	read := func(a *ahead) (reach int) {
		for range maxWindow {
			for _, m := range a.due() {
				name := verify.Name{Module: m, Kind: verify.Zip}
				if a.begin(name, 1) {
					a.end(name)
					reach++
				}
			}
		}
		return reach
	}
	t.Run("many .info in a row announce their zips, once", func(t *testing.T) {
		a, _ := clock()
		for i := range manyInfos - 1 {
			if a.asked(aheadName(i, verify.Info)).zips || a.asked(aheadName(0, verify.Info)).zips {
				t.Fatalf("after %d .info something is due", i+1)
			}
		}
		if !a.asked(aheadName(manyInfos-1, verify.Info)).zips {
			t.Fatal("nothing is due after many .info")
		}
		for i := range 200 {
			if a.asked(aheadName(manyInfos+i, verify.Info)).zips {
				t.Fatal("what is due is announced again")
			}
		}
		if n := read(a); n != firstWindow {
			t.Errorf("%d zips are read before one was asked for, want %d", n, firstWindow)
		}
		if a.asked(aheadName(0, verify.Zip)); !a.infos.steps[firstWindow-1].taken || a.window != 2*firstWindow {
			t.Errorf("the window is %d when the first was wanted, want %d", a.window, 2*firstWindow)
		}
	})
	t.Run("the window grows while what was read is asked for", func(t *testing.T) {
		a, _ := clock()
		walk(a, 0, 200)
		a.window = minWindow
		var reached []int
		total := 0
		for i := range 8 {
			if !a.asked(aheadName(i, verify.Zip)).zips {
				t.Fatalf("zip %d: nothing is due", i)
			}
			total += read(a)
			reached = append(reached, total-i) // beyond the zip asked for
		}
		if want := "[4 8 16 32 64 128 193 192]"; fmt.Sprint(reached) != want {
			t.Errorf("read ahead by %v steps, want %s: all that there are in the end", reached, want)
		}
	})
	t.Run("many clients at once are no wrong guess", func(t *testing.T) {
		a, _ := clock()
		walk(a, 0, 200)
		for from := 0; from < 200; from += maxSkipped {
			for i := range maxSkipped { // the last of them first
				a.asked(aheadName(from+maxSkipped-1-i, verify.Zip))
			}
		}
		if a.window != maxWindow || a.skipped != 0 {
			t.Errorf("the window is %d with %d skipped, want %d and none", a.window, a.skipped, maxWindow)
		}
	})
	t.Run("it shrinks when few of them are asked for", func(t *testing.T) {
		a, _ := clock()
		walk(a, 0, 1000)
		asked := 0
		for i := 0; i < 1000; i += 10 {
			a.asked(aheadName(i, verify.Zip))
			read(a)
			asked++
		}
		count := 0
		for _, s := range a.infos.steps {
			if s.taken {
				count++
			}
		}
		if count > 4*asked {
			t.Errorf("%d zips were read where %d were wanted", count, asked)
		}
	})
	t.Run("it shrinks when something else is asked for", func(t *testing.T) {
		a, _ := clock()
		walk(a, 0, 1000)
		a.asked(aheadName(0, verify.Zip))
		for _, i := range []int{900, 200, 800, 100, 950} {
			a.asked(aheadName(i, verify.Zip))
		}
		if n := read(a); n != minWindow {
			t.Errorf("%d zips are read after guesses that were wrong, want %d", n, minWindow)
		}
	})
	t.Run("nothing is due for one who asks for a zip alone", func(t *testing.T) {
		a, now := clock()
		if a.asked(aheadName(1, verify.Zip)).zips || read(a) != 0 {
			t.Error("something is due that nobody spoke of")
		}
		walk(a, 0, 10)
		*now = now.Add(trailMemory)
		if a.asked(aheadName(1, verify.Zip)).zips || read(a) != 0 {
			t.Error("something is due that was spoken of long ago")
		}
	})
	t.Run("a zip is read once, and a few at a time", func(t *testing.T) {
		a, _ := clock()
		walk(a, 0, 100)
		a.window = maxWindow
		a.asked(aheadName(0, verify.Zip))
		a.window = maxWindow
		var under []verify.Name
		for _, m := range a.due() {
			if name := (verify.Name{Module: m, Kind: verify.Zip}); a.begin(name, 1) {
				under = append(under, name)
			}
		}
		if len(under) != aheadSlots {
			t.Fatalf("%d zips are read at a time, want %d", len(under), aheadSlots)
		}
		if a.begin(under[0], 1) || len(a.due()) != 0 {
			t.Error("more are begun than there is room for")
		}
		for _, name := range under {
			a.end(name)
		}
		if a.begin(under[0], 1) {
			t.Error("a zip is read ahead twice")
		}
	})
	t.Run("large ones wait to be asked for", func(t *testing.T) {
		a, _ := clock()
		walk(a, 0, 3)
		a.asked(aheadName(0, verify.Zip))
		if !a.begin(aheadName(1, verify.Zip), aheadBytes) || a.begin(aheadName(2, verify.Zip), 1) {
			t.Error("want aheadBytes at a time, no more and no less")
		}
		a.end(aheadName(1, verify.Zip))
		if !a.begin(aheadName(2, verify.Zip), 1) || a.bytes != 1 {
			t.Errorf("%d bytes are counted as being read, want 1", a.bytes)
		}
	})
	t.Run("who waits for it is known", func(t *testing.T) {
		a, _ := clock()
		walk(a, 0, 3)
		a.begin(aheadName(1, verify.Zip), 1)
		if a.wanted(aheadName(1, verify.Zip)) {
			t.Error("nobody has asked yet")
		}
		a.asked(aheadName(1, verify.Zip))
		if !a.wanted(aheadName(1, verify.Zip)) || a.wanted(aheadName(2, verify.Zip)) {
			t.Error("want the zip that was asked for, and no other")
		}
	})
	t.Run("records come along once", func(t *testing.T) {
		a, now := clock()
		for i := range maxCompany + 100 {
			a.asked(aheadName(i, verify.Mod))
		}
		if n := len(a.company(aheadName(3, verify.Info).Module)); n != maxCompany {
			t.Errorf("%d modules at once, want %d", n, maxCompany)
		}
		if n := len(a.company(aheadName(4, verify.Info).Module)); n != 99 {
			t.Errorf("%d modules are left, want 99: all but the one asked for first", n)
		}
		*now = now.Add(trailMemory)
		a.asked(aheadName(0, verify.Mod))
		if got := a.company(aheadName(9, verify.Info).Module); len(got) != 1 {
			t.Errorf("%v is asked for again after a while, want one", got)
		}
	})
	t.Run("records come along while a graph is read that is new here", func(t *testing.T) {
		a, now := clock()
		load := func(from, count int) (taken []int) {
			for i := range count {
				if mods := a.asked(aheadName(from+i, verify.Mod)).company; len(mods) > 0 {
					taken = append(taken, len(mods))
				}
			}
			return taken
		}
		if got := load(0, 100); len(got) != 0 {
			t.Errorf("records of %v come along for what is known here", got)
		}
		a.asked(aheadName(0, verify.Info))
		a.learn()
		if got, want := fmt.Sprint(load(100, 100)), "[116 16 32]"; got != want {
			t.Errorf("%s modules' records come along, want %s", got, want)
		}
		*now = now.Add(trailMemory)
		if got := load(200, 100); len(got) != 0 {
			t.Errorf("records of %v come along long after a go.mod came from elsewhere", got)
		}
	})
	t.Run("a build begins once", func(t *testing.T) {
		a, now := clock()
		first, again := a.begins(), a.begins()
		*now = now.Add(nearPause)
		if later := a.begins(); !first || again || !later {
			t.Errorf("begins at first %v, at once again %v, after a pause %v; want true, false, true", first, again, later)
		}
	})
	t.Run("what is remembered is bounded", func(t *testing.T) {
		a, _ := clock()
		walk(a, 0, 5*maxTrail)
		for _, trail := range []*trail{&a.mods, &a.infos} {
			if len(trail.steps) > maxTrail || len(trail.at) > maxTrail {
				t.Errorf("%d steps, %d places, want at most %d", len(trail.steps), len(trail.at), maxTrail)
			}
			for m, i := range trail.at {
				if trail.steps[i-trail.first].mod != m {
					t.Fatalf("the place of %s is that of %s", m, trail.steps[i-trail.first].mod)
				}
			}
		}
		if !a.asked(aheadName(5*maxTrail-10, verify.Zip)).zips || read(a) == 0 {
			t.Error("the last steps are forgotten")
		}
	})
}

func TestFollow(t *testing.T) {
	f := newFollow()
	names := []verify.Name{aheadName(1, verify.Info), aheadName(2, verify.Info)}
	first := f.claim(names)
	if second := f.claim(names); len(first) != 2 || len(second) != 0 {
		t.Fatalf("claimed %d, then %d names, want 2 and none", len(first), len(second))
	}
	f.done(first, names[0])
	if f.wait(t.Context(), names[0]) {
		t.Error("one is waited for that was had")
	}
	again := f.claim(names[:1])
	f.done(first, names...) // the end of the first attempt is none of the second
	waited := make(chan bool)
	go func() { waited <- f.wait(t.Context(), names[0]) }()
	select {
	case <-waited:
		t.Error("the second attempt ended with the first")
	case <-again[names[0]]:
		t.Error("the second attempt ended with the first")
	default:
	}
	f.done(again, names[0])
	<-waited // true, or false if it began to wait too late
	if len(f.under) != 0 {
		t.Errorf("%d names are left", len(f.under))
	}
}
