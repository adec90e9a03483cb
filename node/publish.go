package node

import (
	"archive/zip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"

	"github.com/meshproxy/meshproxy/node/policy"
	"github.com/meshproxy/meshproxy/protocol"
	"github.com/meshproxy/meshproxy/protocol/upstream"
	"github.com/meshproxy/meshproxy/verify"
)

// Publication is a module version that comes from no version control.
type Publication struct {
	Module module.Version `json:"module"`
	Path   string         `json:"path"` // absolute; of a directory, or of a module zip
}

// sourcePublish stands in the records of files that were published.
const sourcePublish = "publish"

// ErrPublished is returned for a version that there is already: a version is never
// changed.
var ErrPublished = errors.New("there is that version already, and a version is never changed: choose another one")

// Publish implements Governance. What is published comes through the door that
// everything comes through, is signed by this office, and goes to the others like
// what was fetched.
func (n *Node) Publish(ctx context.Context, p Publication) (*Why, error) {
	m := p.Module
	if err := module.Check(m.Path, m.Version); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(p.Path) {
		return nil, fmt.Errorf("publish %q: want an absolute path", p.Path)
	}
	if !n.policy.MayPublish(n.self(), m.Path) {
		return nil, fmt.Errorf("%s: office %s may not publish it: no admin has allowed that, see: meshproxy policy publish", m.Path, n.Office())
	}
	if err := n.unheardOf(ctx, m); err != nil {
		return nil, err
	}
	f, err := n.moduleZip(m, p.Path)
	if err != nil {
		return nil, fmt.Errorf("publish %s: %w", m, err)
	}
	defer func() {
		f.Close()
		os.Remove(f.Name())
	}()
	if err := n.publish(ctx, m, f); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	n.audit.note(AuditEntry{What: auditPublished, Module: m.String(), Office: n.Office()})
	n.arrivals.forget()
	n.refreshes.forget()
	return n.Why(ctx, m)
}

// unheardOf reports whether nobody in reach has any file of a module version.
func (n *Node) unheardOf(ctx context.Context, m module.Version) error {
	for _, kind := range []verify.Kind{verify.Zip, verify.Mod, verify.Info} {
		name := verify.Name{Module: m, Kind: kind}
		if _, err := n.store.Record(name); err == nil {
			return fmt.Errorf("%s: %w", m, ErrPublished)
		}
		e := errand{Node: n, name: name}
		if _, err := e.fromMesh(ctx); err == nil {
			return fmt.Errorf("%s: %w", m, ErrPublished)
		}
	}
	return ctx.Err()
}

// moduleZip makes a temporary file with the zip of a directory, or with a copy of a
// zip: what is read twice must not change in between.
func (n *Node) moduleZip(m module.Version, path string) (f *os.File, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if f, err = os.CreateTemp(filepath.Join(n.cfg.Dir, "incoming"), "publish-*.zip"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if info.IsDir() {
		return f, modzip.CreateFromDir(f, m, path)
	}
	from, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	size, err := io.Copy(f, io.LimitReader(from, modzip.MaxZipFile+1))
	if err == nil && size > modzip.MaxZipFile {
		err = fmt.Errorf("%s: larger than %d bytes", path, int64(modzip.MaxZipFile))
	}
	return f, err
}

// publish admits the three files of a module version.
func (n *Node) publish(ctx context.Context, m module.Version, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	mod, err := goModOf(m, f, info.Size())
	if err != nil {
		return err
	}
	text, err := json.Marshal(protocol.RevInfo{Version: m.Version, Time: time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	for _, file := range []*upstream.Fetched{
		{Name: verify.Name{Module: m, Kind: verify.Zip}, File: f, Size: info.Size()},
		{Name: verify.Name{Module: m, Kind: verify.Mod}, Data: mod, Size: int64(len(mod))},
		{Name: verify.Name{Module: m, Kind: verify.Info}, Data: text, Size: int64(len(text))},
	} {
		file.Source = sourcePublish
		if _, err := n.admit(ctx, file, nil); err != nil {
			return err
		}
	}
	return nil
}

// goModOf reads the go.mod in a module's zip, which must be for that module; of a
// module without one it is what the go command would make.
func goModOf(m module.Version, f io.ReaderAt, size int64) ([]byte, error) {
	z, err := zip.NewReader(f, size)
	if err != nil {
		return nil, err
	}
	r, err := z.Open(m.Path + "@" + m.Version + "/go.mod")
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Appendf(nil, "module %s\n", modfile.AutoQuote(m.Path)), nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, modzip.MaxGoMod+1))
	if err == nil && len(text) > modzip.MaxGoMod {
		err = fmt.Errorf("go.mod is larger than %d bytes", int64(modzip.MaxGoMod))
	}
	if err != nil {
		return nil, err
	}
	if path := modfile.ModulePath(text); path != m.Path {
		return nil, fmt.Errorf("go.mod is for module %q, not %q", path, m.Path)
	}
	return text, nil
}

// publishable reports whether what another office published may be: the admins
// have allowed somebody to publish the module.
func (n *Node) publishable(rec *verify.Record) error {
	if rec.Source != sourcePublish || n.policy.Publishable(rec.Name.Module.Path) {
		return nil
	}
	return &protocol.Error{Status: http.StatusForbidden, Err: policy.ErrHold,
		Text: fmt.Sprintf("%s: office %s published it, and no admin has allowed that", rec.Name, rec.Office)}
}

// Publish implements Governance.
func (c *Client) Publish(ctx context.Context, p Publication) (*Why, error) {
	return ask[*Why](ctx, c, "publish", p)
}

// Publish implements Governance.
func (o *Offline) Publish(context.Context, Publication) (*Why, error) { return nil, ErrNotRunning }
