//go:build !unix

package bench

import "io/fs"

// allocated is the size of a file, in bytes, where the system does not say what it
// takes on disk.
func allocated(info fs.FileInfo) int64 { return info.Size() }
