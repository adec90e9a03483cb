package verify

import (
	"os/exec"
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	key := newTestLog(t, testDB, "").vkey
	for text, want := range map[string]Spec{
		"off":                               {Off: true},
		" off ":                             {Off: true},
		key:                                 {Name: testDB, Key: key},
		key + " https://mirror.test/s/":     {Name: testDB, Key: key, URL: "https://mirror.test/s"},
		key + " http://127.0.0.1:8080":      {Name: testDB, Key: key, URL: "http://127.0.0.1:8080"},
		key + " only=corp.test/*,x.test":    {Name: testDB, Key: key, Only: "corp.test/*,x.test"},
		key + " https://m.test only=x.test": {Name: testDB, Key: key, URL: "https://m.test", Only: "x.test"},
	} {
		if got, err := ParseSpec(text); err != nil || got != want {
			t.Errorf("ParseSpec(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestSpecsThatAreRefused(t *testing.T) {
	key := newTestLog(t, testDB, "").vkey
	name := func(name string) string { return newTestLog(t, name, "").vkey }
	for what, text := range map[string]string{
		"nothing": "", "blanks": "  ", "off and more": "off https://x.test", "off for some": "off only=x.test",
		"unknown name": "sums.example.test", "two URLs": key + " https://x.test https://y.test",
		"URL without a scheme": key + " x.test", "URL of a file": key + " file:///etc", "URL with a query": key + " https://x.test/?a=b",
		"no patterns": key + " only=", "blank patterns": key + " only=,", "key cut off": key[:len(key)-4],
		"key of another name": "other" + key, "endless": strings.Repeat("x", maxSpec+1),
		"name that climbs": name("x.test/../y"), "name with a query": name("x.test?y"), "name with a user": name("me@x.test"),
		"name that ends in a slash": name("x.test/"), "name of two slashes": name("x.test//y"),
	} {
		t.Run(what, func(t *testing.T) {
			if got, err := ParseSpec(text); err == nil {
				t.Errorf("ParseSpec(%q) = %+v, want an error", text, got)
			}
		})
	}
}

// The default database's key fits the name that the Go toolchain has for it.
func TestDefaultDatabase(t *testing.T) {
	cmd := exec.Command("go", "env", "GOSUMDB")
	cmd.Env = append(cmd.Environ(), "GOSUMDB=", "GOENV=off", "GOTOOLCHAIN=local", "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSpace(string(out))
	spec, err := ParseSpec(name)
	if err != nil {
		t.Fatal(err)
	}
	if spec.Name != name || !strings.HasPrefix(spec.Key, name+"+") {
		t.Errorf("got %+v for %s", spec, name)
	}
	if _, err := NewDatabase(DatabaseOptions{Spec: spec, Cache: newMemCache()}); err != nil {
		t.Error(err)
	}
}
