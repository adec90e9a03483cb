package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	socketName = "control.sock"
	// socketPointer names the file in the data directory that holds the socket's
	// path when the data directory's own is too long for one.
	socketPointer = "control.path"
	// maxSocketPath is below what every system allows: 104 bytes with the final
	// NUL on BSD and macOS, 108 on Linux.
	maxSocketPath = 100
	maxPointer    = 4 << 10
	socketDial    = 2 * time.Second
)

// ErrNotRunning is returned by Dial when no node serves the data directory.
var ErrNotRunning = errors.New("no node is running")

// listenControl opens the control socket of a data directory that the caller
// holds the lock of, mode 0600. When the path is too long for a socket, the
// socket is made in a private directory for temporary files, and DIR/control.path
// says where. The returned func removes what was made.
func listenControl(dir string) (net.Listener, func(), error) {
	path := filepath.Join(dir, socketName)
	pointer := filepath.Join(dir, socketPointer)
	// Whatever lies here is from a node that died: this one holds the lock.
	for _, stale := range []string{path, pointer} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("remove the control socket of an earlier run: %w", err)
		}
	}
	if len(path) <= maxSocketPath {
		l, err := listenUnix(path)
		return l, func() { os.Remove(path) }, err
	}
	private, err := os.MkdirTemp(runtimeDir(), "meshproxy-")
	if err != nil {
		return nil, nil, fmt.Errorf("the path %s is too long for a unix socket, and no other place was found: %w", path, err)
	}
	remove := func() { os.Remove(pointer); os.RemoveAll(private) }
	short := filepath.Join(private, socketName)
	l, err := listenUnix(short)
	if err == nil {
		err = os.WriteFile(pointer, []byte(short+"\n"), 0o600)
	}
	if err != nil {
		if l != nil {
			l.Close()
		}
		remove()
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	return l, remove, nil
}

// listenUnix makes the socket under another name and moves it into place when
// its mode is right, so that nobody else can connect in between.
func listenUnix(path string) (net.Listener, error) {
	raw := path + "~"
	os.Remove(raw)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: raw, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(raw, 0o600)
	if err == nil {
		err = os.Rename(raw, path)
	}
	if err != nil {
		l.Close()
		os.Remove(raw)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

func runtimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && len(dir) < maxSocketPath/2 {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			return dir
		}
	}
	return os.TempDir()
}

// dialControl connects to the node that serves dir. It returns ErrNotRunning when
// there is none.
func dialControl(ctx context.Context, dir string) (net.Conn, error) {
	path, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: socketDial}
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("control socket %s belongs to another user: %w", path, err)
		}
		return nil, fmt.Errorf("%w on %s", ErrNotRunning, dir)
	}
	return conn, nil
}

func socketPath(dir string) (string, error) {
	path := filepath.Join(dir, socketName)
	if len(path) <= maxSocketPath {
		return path, nil
	}
	f, err := os.Open(filepath.Join(dir, socketPointer))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w on %s", ErrNotRunning, dir)
	}
	if err != nil {
		return "", fmt.Errorf("find the control socket: %w", err)
	}
	defer f.Close()
	buf := make([]byte, maxPointer)
	n, err := f.Read(buf)
	if err != nil {
		return "", fmt.Errorf("find the control socket: %w", err)
	}
	return strings.TrimSuffix(string(buf[:n]), "\n"), nil
}
