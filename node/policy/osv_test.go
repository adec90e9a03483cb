package policy

import (
	"errors"
	"strings"
	"testing"
)

const osvSample = `{
  "id": "GO-2099-0001", "summary": "Bad things in a.test/b", "modified": "2099-01-01T00:00:00Z",
  "affected": [
    {"package": {"ecosystem": "Go", "name": "a.test/b"},
     "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "1.2.3"}, {"introduced": "1.4.0"}, {"last_affected": "1.4.2"}]}]},
    {"package": {"ecosystem": "Go", "name": "a.test/c/v2"}, "versions": ["2.0.1", "v2.0.2"]},
    {"package": {"ecosystem": "npm", "name": "a.test/d"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}
  ]}
[{"id": "GO-2099-0002", "withdrawn": "2099-01-02T00:00:00Z",
  "affected": [{"package": {"ecosystem": "Go", "name": "a.test/e"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}]},
 {"id": "MAL-2099-3",
  "affected": [{"package": {"ecosystem": "Go", "name": "a.test/evil"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}, {"type": "GIT", "events": [{"introduced": "abc"}]}]}]}]`

func TestDenylist(t *testing.T) {
	d := new(Denylist)
	if err := d.ParseOSV([]byte(osvSample)); err != nil {
		t.Fatal(err)
	}
	for m, want := range map[string]string{
		"a.test/b@v1.2.2":                             "GO-2099-0001",
		"a.test/b@v1.2.3-rc.1":                        "GO-2099-0001",
		"a.test/b@v0.0.0-20200101000000-abcdefabcdef": "GO-2099-0001",
		"a.test/b@v1.2.3":                             "",
		"a.test/b@v1.3.9":                             "",
		"a.test/b@v1.4.0":                             "GO-2099-0001",
		"a.test/b@v1.4.2":                             "GO-2099-0001",
		"a.test/b@v1.4.3":                             "",
		"a.test/b/x@v1.0.0":                           "",
		"a.test/c/v2@v2.0.1":                          "GO-2099-0001",
		"a.test/c/v2@v2.0.2":                          "GO-2099-0001",
		"a.test/c/v2@v2.0.3":                          "",
		"a.test/d@v1.0.0":                             "",
		"a.test/e@v1.0.0":                             "",
		"a.test/evil@v3.0.0+incompatible":             "MAL-2099-3",
	} {
		path, version, _ := strings.Cut(m, "@")
		got := ""
		if found := d.Lookup(path, version, nil); len(found) > 0 {
			got = found[0].ID
		}
		if got != want {
			t.Errorf("%s: %q, want %q", m, got, want)
		}
	}
	if found := d.Lookup("a.test/evil", "v1.0.0", []string{"MAL-2099-3"}); len(found) > 0 {
		t.Errorf("%s counts though it is to be ignored", found[0].ID)
	}
}

func TestBadOSV(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":     "GO-2099-0001",
		"cut off":     osvSample[:100],
		"bad version": `{"id":"x","affected":[{"package":{"ecosystem":"Go","name":"a"},"ranges":[{"type":"SEMVER","events":[{"introduced":"one"}]}]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if err := new(Denylist).ParseOSV([]byte(text)); !errors.Is(err, ErrOSV) {
				t.Errorf("error %v, want %v", err, ErrOSV)
			}
		})
	}
}

func FuzzParseOSV(f *testing.F) {
	f.Add(osvSample, "v1.0.0")
	f.Fuzz(func(t *testing.T, text, version string) {
		d := new(Denylist)
		if d.ParseOSV([]byte(text)) != nil {
			return
		}
		for path := range d.byModule {
			d.Lookup(path, version, nil)
		}
	})
}
