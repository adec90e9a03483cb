//go:build !unix

package store

import (
	"math"
	"os"
	"path/filepath"
)

// lockDir opens the lock file; here Badger's own lock keeps others out.
func lockDir(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
}

func freeSpace(string) (int64, error) { return math.MaxInt64, nil }

func allocated(info os.FileInfo) int64 { return info.Size() }
