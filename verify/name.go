package verify

import (
	"fmt"

	"golang.org/x/mod/module"
)

// Kind is one of the three files that make up a module version in the module
// download protocol. They are fetched, vouched for and admitted one by one,
// because a client that asks for a go.mod must not cost anybody a zip.
type Kind string

// The kinds, named by the suffix of their URL.
const (
	Info Kind = "info"
	Mod  Kind = "mod"
	Zip  Kind = "zip"
)

// Limits of the three files, from golang.org/x/mod/zip (zip and go.mod) and, for
// .info, far above what any VCS origin needs.
const (
	MaxInfo = 1 << 20
	MaxMod  = 16 << 20
	MaxZip  = 500 << 20
)

// Name names one file of one module version, the unit of fetch and of claim.
type Name struct {
	Module module.Version
	Kind   Kind
}

// String is path@version.kind, as in error messages.
func (n Name) String() string { return n.Module.String() + "." + string(n.Kind) }

// Check reports whether the name may be asked for: a valid module path, a
// canonical version that fits it, and one of the three kinds.
func (n Name) Check() error {
	switch n.Kind {
	case Info, Mod, Zip:
	default:
		return fmt.Errorf("%.80q is no file of a module version: want info, mod or zip", string(n.Kind))
	}
	return checkModule(n.Module)
}

// checkModule is module.Check, which lets short versions such as v1 pass, and
// that the version is canonical.
func checkModule(m module.Version) error {
	if err := module.Check(m.Path, m.Version); err != nil {
		return err
	}
	if c := module.CanonicalVersion(m.Version); c != m.Version {
		return &module.InvalidVersionError{Version: m.Version, Err: fmt.Errorf("not canonical, want %q", c)}
	}
	return nil
}
