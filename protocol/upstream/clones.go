package upstream

import (
	"io/fs"
	"os"
	"path/filepath"
)

// trimEvery is after how many runs of the go command the size of clones is
// looked at.
const trimEvery = 32

// clones returns the directory of clones. The go command locks each clone, so
// that runs may share it.
func (d *direct) clones() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.vcs != "" {
		return d.vcs, nil
	}
	dir, err := os.MkdirTemp(d.o.TempDir, "clones-*")
	if err != nil {
		return "", err
	}
	d.vcs = dir
	return dir, nil
}

// trim removes the clones once they have grown too large. It does so only while
// no run uses them, and else leaves it to a later run.
func (d *direct) trim() {
	d.mu.Lock()
	d.done++
	due := d.done%trimEvery == 0
	dir := d.vcs
	d.mu.Unlock()
	if !due || dir == "" || !d.runs.TryAcquire(int64(d.o.Direct)) {
		return
	}
	defer d.runs.Release(int64(d.o.Direct))
	if size := dirSize(dir); size > d.o.Clones {
		d.o.Log.Info("clones of direct are removed", "bytes", size)
		if err := d.close(); err != nil {
			d.o.Log.Warn("clones of direct stay behind", "dir", dir, "error", err)
		}
	}
}

// dirSize adds up the files below dir, as far as they can be seen.
func dirSize(dir string) int64 {
	var size int64
	// The walk's only errors are those that the function returns: none.
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
		return nil
	})
	return size
}

// close removes the clones.
func (d *direct) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.vcs == "" {
		return nil
	}
	dir := d.vcs
	d.vcs = ""
	return os.RemoveAll(dir)
}
