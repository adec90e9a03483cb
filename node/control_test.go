package node_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
)

func TestControl(t *testing.T) {
	t.Run("the socket and the store give the same answers", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("one", a.online())
		a.want(o, 200, tagged+"v1.0.0.mod")
		dir := o.Status().Data
		info, err := os.Stat(filepath.Join(dir, "control.sock"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("control socket: %v, %v; want mode 0600", info, err)
		}
		client, err := node.Dial(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		running := answers(t, client)
		client.Close()
		if _, err := node.OpenOffline(t.Context(), dir); !errors.Is(err, store.ErrLocked) {
			t.Errorf("the store of a running node was opened: %v", err)
		}
		o.Stop()
		if _, err := node.Dial(t.Context(), dir); !errors.Is(err, node.ErrNotRunning) {
			t.Errorf("Dial = %v after the end, want ErrNotRunning", err)
		}
		offline, err := node.OpenOffline(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		defer offline.Close()
		if got := answers(t, offline); got != running {
			t.Errorf("offline:\n%s\nrunning:\n%s", got, running)
		}
	})
	t.Run("an invitation made while the node is down leads to it", func(t *testing.T) {
		a := newAround(t)
		one := a.Found("one", a.online())
		a.want(one, 200, tagged+"v1.0.0.mod")
		dir := one.Status().Data
		one.Stop()
		offline, err := node.OpenOffline(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		token, err := offline.Invite(t.Context(), node.Invitation{Role: "member", Office: "two", TTL: time.Hour, Uses: 1})
		if err := errors.Join(err, offline.Close()); err != nil {
			t.Fatal(err)
		}
		one.Restart()
		two := a.Found("two", a.offline())
		if _, err := two.Node().Join(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		a.Settle()
		a.want(two, 200, tagged+"v1.0.0.mod")
	})
	t.Run("a directory without a node is left alone", func(t *testing.T) {
		dir := t.TempDir()
		if o, err := node.OpenOffline(t.Context(), dir); err == nil {
			o.Close()
			t.Fatal("a node was found where there is none")
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%v was left behind, %v", left, err)
		}
	})
	t.Run("errors reach the operator as they are", func(t *testing.T) {
		a := newAround(t)
		o := a.Found("one", a.offline())
		client, err := node.Dial(t.Context(), o.Status().Data)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := client.Join(t.Context(), "nonsense"); err == nil || !strings.Contains(err.Error(), "token") {
			t.Errorf("Join of nonsense = %v, want a word about the token", err)
		}
		if _, err := client.Invite(t.Context(), node.Invitation{Role: "king", TTL: time.Hour, Uses: 1}); err == nil || !strings.Contains(err.Error(), "king") {
			t.Errorf("Invite of a king = %v, want a word about the role", err)
		}
	})
}

// answers is what a Control says of holdings and identity, as text.
func answers(t *testing.T, c node.Control) string {
	t.Helper()
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text := []string{st.PeerID, st.Mesh, st.Office, st.Role}
	err = c.Releases(t.Context(), "", func(r node.Release) error {
		text = append(text, r.Path+"@"+r.Version.Version, strings.Join(r.Files, " "), r.Office, r.Vouched)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(text, "\n")
}
