package node

import (
	"testing"

	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// TestEarly: clients have a file before it is safe on disk only if it could not come
// back as another one.
func TestEarly(t *testing.T) {
	proven := verify.Vouch{By: verify.BySumDB, Database: "sums.test", Proof: new(verify.Proof)}
	pinned := proven
	pinned.By = verify.ByPin
	for _, c := range []struct {
		name  string
		kind  verify.Kind
		vouch verify.Vouch
		want  bool
	}{
		{"zip in a checksum database", verify.Zip, proven, true},
		{"go.mod in a checksum database", verify.Mod, proven, true},
		{"pinned, with a proof", verify.Zip, pinned, true},
		{"pinned, without one", verify.Zip, verify.Vouch{By: verify.ByPin}, false},
		{"on this office's word", verify.Zip, verify.Vouch{By: verify.ByMember}, false},
		{".info, which no database knows", verify.Info, verify.Vouch{By: verify.ByMember}, false},
		{".info that claims a proof", verify.Info, proven, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := verify.Record{Name: verify.Name{Module: module.Version{Path: "example.test/m", Version: "v1.0.0"}, Kind: c.kind}, Vouch: c.vouch}
			if got := early(&r); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}
