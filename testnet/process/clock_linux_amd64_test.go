package process_test

import (
	endian "encoding/binary"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/testnet/outside"
	"github.com/meshproxy/meshproxy/testnet/process"
)

// clockVariable names the file, to a binary that withClock has built, that says how
// far its clock is off.
const clockVariable = "TESTNET_CLOCK"

// noClock is what that binary says on a machine whose kernel keeps the time to itself.
const noClock = "the kernel gives this process no function that tells the time"

// withClock builds the binary from the same sources and one more file, which puts
// another function in the place of the one that tells the runtime the time. The kernel
// has namespaces for other clocks, but not for this one; and with another package time
// everything would have to be compiled anew.
func withClock(t *testing.T) process.Binary {
	t.Helper()
	command, err := filepath.Abs("../../cmd/meshproxy")
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("testdata/clock")
	if err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{}
	for _, name := range []string{"clock_linux_amd64.go", "clock_linux_amd64.s"} {
		replace[filepath.Join(command, name)] = filepath.Join(here, name)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	list, bin := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "meshproxy")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-overlay", list, "-o", bin, "github.com/meshproxy/meshproxy/cmd/meshproxy").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	probe := exec.Command(bin, "version")
	probe.Env = append(os.Environ(), newClock(t, 0).env()...)
	if out, err := probe.CombinedOutput(); err != nil && strings.Contains(string(out), noClock) {
		t.Skip(noClock)
	} else if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return process.Binary(bin)
}

// clock is what an office's clock is off by.
type clock struct {
	t    *testing.T
	file string
}

func newClock(t *testing.T, off time.Duration) *clock {
	c := &clock{t, filepath.Join(t.TempDir(), "clock")}
	if err := os.WriteFile(c.file, make([]byte, os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.set(off)
	return c
}

// set sets the clock, also of an office that runs.
func (c *clock) set(off time.Duration) {
	c.t.Helper()
	f, err := os.OpenFile(c.file, os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(endian.NativeEndian.AppendUint64(nil, uint64(off/time.Second)), 0); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clock) env() []string { return []string{clockVariable + "=" + c.file} }

const day = 24 * time.Hour

// TestClocksThatAreOff has offices whose clocks are off from the start, or jump while
// they run. Each office is a process of the real sources, with a clock of its own.
func TestClocksThatAreOff(t *testing.T) {
	if testing.Short() {
		t.Skip("another binary is linked, and offices wait for each other")
	}
	bin := withClock(t)
	for name, run := range map[string]func(*clocks){
		"a little": (*clocks).little, "a day behind": (*clocks).behind, "a day ahead": (*clocks).ahead,
		"jumps": (*clocks).jumps,
	} {
		t.Run(name, func(t *testing.T) {
			c := &clocks{scene: newScene(t), bin: bin}
			c.cold = c.world.Releases()
			c.right = c.office("right", newClock(t, 0), process.Options{})
			run(c)
		})
	}
}

// clocks is a mesh whose first office has the right time.
type clocks struct {
	*scene
	bin   process.Binary
	right *process.Office
	cold  []*outside.Release // that nobody was asked for
}

func (c *clocks) office(name string, clock *clock, o process.Options) *process.Office {
	c.t.Helper()
	office, err := c.try(name, clock, o)
	if err != nil {
		c.t.Fatal(err)
	}
	return office
}

func (c *clocks) try(name string, clock *clock, o process.Options) (*process.Office, error) {
	o.Env, o.SumDB = clock.env(), c.db.Key()
	if o.Upstream == "" {
		o.Upstream = c.upstream.URL()
	}
	office, err := c.bin.Start(c.t.Context(), filepath.Join(c.dir, name), o)
	if err == nil {
		c.t.Cleanup(office.Kill)
	}
	return office, err
}

// shares holds that an office has from others what only they can have.
func (c *clocks) shares(o *process.Office) {
	c.t.Helper()
	r := c.cold[0]
	c.cold = c.cold[1:]
	c.until(c.right, r, http.StatusOK)
	c.until(o, r, http.StatusOK)
}

// little: clocks may differ by minutes, as those of machines do that nobody sees to.
func (c *clocks) little() {
	for name, off := range map[string]time.Duration{"ahead": 5 * time.Minute, "behind": -5 * time.Minute} {
		c.shares(c.office(name, newClock(c.t, off), process.Options{Token: c.invite(c.right), Upstream: "off"}))
	}
}

func (c *clocks) behind() { c.refusedUntilSet(-day) }
func (c *clocks) ahead()  { c.refusedUntilSet(3 * day) }

// refusedUntilSet: who cannot tell whether a credential is in force does not get in,
// hears why, and gets in with the same token once the clock is set. Its own mesh, with
// what it holds, is as it was.
func (c *clocks) refusedUntilSet(off time.Duration) {
	clock := newClock(c.t, off)
	token := c.invite(c.right)
	_, err := c.try("off", clock, process.Options{Token: token, Upstream: "off"})
	if err == nil {
		c.t.Fatalf("an office whose clock is off by %v joined", off)
	}
	if !strings.Contains(err.Error(), "not yet valid") && !strings.Contains(err.Error(), "has expired") {
		c.t.Errorf("that the clock is off by %v is not said: %v", off, err)
	}
	clock.set(0)
	c.shares(c.office("off", clock, process.Options{Token: token, Upstream: "off"}))
}

// jumps sets the clock of an office that runs, far ahead and far back. What it holds it
// serves at any time; once the clock is right, it is a member as before.
func (c *clocks) jumps() {
	clock := newClock(c.t, 0)
	o := c.office("jumps", clock, process.Options{Token: c.invite(c.right), Upstream: "off"})
	held := c.cold[0]
	c.shares(o)
	for _, off := range []time.Duration{400 * day, -400 * day} {
		clock.set(off)
		c.connected(o, 0) // for all that it can tell, no credential is in force
		c.until(o, held, http.StatusOK)
		clock.set(0)
		c.connected(o, 1)
		c.shares(o)
	}
}

// connected waits until an office is connected to so many members.
func (c *clocks) connected(o *process.Office, want int) {
	c.t.Helper()
	var st *node.Status
	var err error
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if st, err = o.Status(c.t.Context()); err == nil && st.Connected == want {
			return
		}
	}
	c.t.Fatalf("%+v, %v, want %d connected members\n%s", st, err, want, o.Log())
}
