//go:build unix

package bench

import (
	"io/fs"
	"syscall"
)

// allocated is what a file takes on disk, in bytes.
func allocated(info fs.FileInfo) int64 {
	const block = 512
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * block
	}
	return info.Size()
}
