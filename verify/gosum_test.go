package verify

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/module"
	"pgregory.net/rapid"
)

const testSum = "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="

func TestParseGoSum(t *testing.T) {
	other := DigestOf([]byte("other"))
	data := "example.test/x v1.0.0 " + testSum + "\n" +
		"\n" +
		"example.test/x v1.0.0/go.mod " + other.H1() + "\r\n" +
		"example.test/x v1.0.0 " + testSum + "\n" + // as merges leave it
		"example.test/y v3.1.0+incompatible " + testSum // no newline at the end
	got, err := ParseGoSum("go.sum", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	x, y := module.Version{Path: "example.test/x", Version: "v1.0.0"}, module.Version{Path: "example.test/y", Version: "v3.1.0+incompatible"}
	want := []Pin{
		{Name{x, Zip}, must(ParseH1(testSum)), "go.sum:1"},
		{Name{x, Mod}, other, "go.sum:3"},
		{Name{y, Zip}, must(ParseH1(testSum)), "go.sum:5"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParseGoSumOfThisModule(t *testing.T) {
	data, err := os.ReadFile("../go.sum")
	if err != nil {
		t.Fatal(err)
	}
	pins, err := ParseGoSum("go.sum", data)
	if err != nil {
		t.Fatal(err)
	}
	if len(pins) != bytes.Count(data, []byte("\n")) {
		t.Errorf("%d pins in %d lines", len(pins), bytes.Count(data, []byte("\n")))
	}
}

func TestGoSumsThatAreRefused(t *testing.T) {
	ok := "example.test/x v1.0.0 " + testSum + "\n"
	for name, c := range map[string]struct{ data, says string }{
		"two fields":            {ok + "example.test/y v1.0.0\n", "go.sum:2: 2 fields"},
		"four fields":           {"example.test/y v1.0.0 " + testSum + " x\n", "go.sum:1: 4 fields"},
		"another kind of hash":  {"example.test/y v1.0.0 h2:abc\n", "go.sum:1: hash"},
		"hash that is short":    {"example.test/y v1.0.0 h1:abcd\n", "go.sum:1: hash"},
		"version not canonical": {"example.test/y v1 " + testSum + "\n", "not canonical"},
		"path that climbs":      {"example.test/../y v1.0.0 " + testSum + "\n", "malformed module path"},
		"version of no module":  {"example.test/y v2.0.0 " + testSum + "\n", "should be v0 or v1"},
		"another suffix":        {"example.test/y v1.0.0/go.sum " + testSum + "\n", "go.sum:1: "},
		"line that never ends":  {ok + strings.Repeat("x", maxGoSumLine+1), "go.sum:2: line of"},
		"file that never ends":  {strings.Repeat("\n", MaxGoSum+1), "at most"},
		"two hashes":            {ok + "\nexample.test/x v1.0.0 " + DigestOf(nil).H1() + "x\n", "go.sum:3: "},
		"merge conflict":        {"<<<<<<< HEAD\n" + ok, "go.sum:1: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseGoSum("go.sum", []byte(c.data))
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it to say %q", err, c.says)
			}
		})
	}
	other := DigestOf([]byte("x"))
	_, err := ParseGoSum("go.sum", []byte(ok+"example.test/x v1.0.0 "+other.H1()+"\n"))
	if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), "go.sum:1") || !strings.Contains(err.Error(), "go.sum:2") ||
		!strings.Contains(err.Error(), testSum) || !strings.Contains(err.Error(), other.H1()) {
		t.Errorf("two hashes for one file: got %v, want both named", err)
	}
}

func pin(i int, kind Kind, content string) Pin {
	return Pin{Name{mod(i), kind}, DigestOf([]byte(content)), fmt.Sprintf("go.sum:%d", i)}
}

func TestPinsAddAllOrNothing(t *testing.T) {
	pins := new(Pins)
	if err := pins.Add(pin(1, Zip, "a"), pin(1, Mod, "b")); err != nil {
		t.Fatal(err)
	}
	for name, add := range map[string][]Pin{
		"against a known one": {pin(2, Zip, "c"), pin(1, Zip, "other")},
		"against each other":  {pin(2, Zip, "c"), pin(3, Zip, "d"), pin(3, Zip, "e")},
	} {
		t.Run(name, func(t *testing.T) {
			if err := pins.Add(add...); !errors.Is(err, ErrMismatch) {
				t.Errorf("got %v, want %v", err, ErrMismatch)
			}
			if n := len(pins.List()); n != 2 {
				t.Errorf("%d pins, want the 2 of before", n)
			}
		})
	}
	if err := pins.Add(Pin{Name: Name{mod(1), Info}}); err == nil {
		t.Error("a pin of a .info was taken")
	}
	again := pin(1, Zip, "a")
	again.Origin = "elsewhere:7"
	if err := pins.Add(again); err != nil {
		t.Error(err)
	}
	if p, ok := pins.Lookup(again.Name); !ok || p.Origin != "go.sum:1" {
		t.Errorf("got %v, want the first origin to stay", p)
	}
	if n := pins.Remove(mod(1)); n != 2 || len(pins.List()) != 0 {
		t.Errorf("removed %d pins, %d left", n, len(pins.List()))
	}
}

func TestPinsSurviveEncoding(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		pins := new(Pins)
		for _, i := range rapid.SliceOfDistinct(rapid.IntRange(0, 1000), rapid.ID).Draw(rt, "modules") {
			kind := rapid.SampledFrom([]Kind{Mod, Zip}).Draw(rt, "kind")
			if err := pins.Add(pin(i, kind, rapid.String().Draw(rt, "content"))); err != nil {
				rt.Fatal(err)
			}
		}
		got, err := DecodePins(pins.Encode())
		if err != nil {
			rt.Fatal(err)
		}
		if !reflect.DeepEqual(got.List(), pins.List()) || !bytes.Equal(got.Encode(), pins.Encode()) {
			rt.Fatalf("got %v, want %v", got.List(), pins.List())
		}
	})
}

func TestPinListsThatAreRefused(t *testing.T) {
	wire := wirePin{mod(1).Path, mod(1).Version, "zip", make([]byte, 32), "x"}
	short, info, twice := wire, wire, wire
	short.Digest = make([]byte, 31)
	info.Kind = "info"
	for name, list := range map[string][]wirePin{
		"short digest": {short}, "pin of a .info": {info}, "the same twice": {twice, twice},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodePins(must(encMode.Marshal(list))); err == nil {
				t.Error("it was taken")
			}
		})
	}
	if pins, err := DecodePins(nil); err != nil || len(pins.List()) != 0 {
		t.Errorf("no data: %v, %v", pins, err)
	}
}

func TestPinsAreSafeForConcurrentUse(t *testing.T) {
	pins := new(Pins)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := pins.Add(pin(i, Zip, "a")); err != nil {
				t.Error(err)
			}
			pins.Lookup(Name{mod(i), Zip})
			pins.List()
		})
	}
	wg.Wait()
	if n := len(pins.List()); n != 20 {
		t.Errorf("%d pins, want 20", n)
	}
}
