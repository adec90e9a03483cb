package process_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/meshproxy/meshproxy/testnet/process"
)

// disk is a file system of its own, whose size can change. What is not written to it
// takes no memory.
type disk struct {
	t   *testing.T
	dir string
}

func newDisk(t *testing.T, mib int) *disk {
	t.Helper()
	d := &disk{t, t.TempDir()}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("needs the right to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.dir, 0); err != nil {
			t.Error(err)
		}
	})
	return d
}

// leave resizes the disk so that so many MiB are free.
func (d *disk) leave(mib int) {
	d.t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		d.t.Fatal(err)
	}
	used := int(s.Blocks-s.Bfree)*int(s.Bsize)>>20 + 1
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%dm", used+mib)); err != nil {
		d.t.Fatal(err)
	}
}

// TestDiskFillsUp fills the disk of an office that runs: what it holds it serves, to
// clients and to other offices, and what it does not hold it cannot take in, and says
// so. When there is room again it goes on, without having been started again.
func TestDiskFillsUp(t *testing.T) {
	const plenty = 900 // above the 512 MiB that are kept free
	d, s := newDisk(t, plenty), newScene(t)
	releases := s.world.Releases()
	held, cold := releases[0], releases[1]
	roomy := s.start("roomy", process.Options{})
	s.dir = d.dir
	full := s.start(filepath.Base(t.Name()), process.Options{Token: s.invite(roomy)})
	s.until(full, held, http.StatusOK)
	for _, left := range []int{400, 20} {
		d.leave(left)
		s.until(full, cold, http.StatusInsufficientStorage)
		s.until(full, held, http.StatusOK)
	}
	s.until(roomy, held, http.StatusOK)
	d.leave(plenty)
	s.until(full, cold, http.StatusOK)
}
