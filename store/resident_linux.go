package store

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"
)

// dropPages gives up the pages that the process has of the memory map that v
// stands in. What is not a shared map of a file is left alone: elsewhere the same
// call would forget what is in memory.
func dropPages(v []byte) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(v)))
	start, end, ok := sharedMap(at, at+uintptr(len(v)))
	if !ok {
		return
	}
	pages := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(v)), -int(at-start))), end-start)
	_ = syscall.Madvise(pages, syscall.MADV_DONTNEED) // if it cannot be done, they stay
}

// sharedMap returns the bounds of the shared map of a value log that holds the
// addresses from low to high.
func sharedMap(low, high uintptr) (start, end uintptr, ok bool) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return 0, 0, false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var flags string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &start, &end, &flags); n != 3 || low < start || low >= end {
			continue
		}
		return start, end, high <= end && strings.HasSuffix(flags, "s") && strings.HasSuffix(lines.Text(), ".vlog")
	}
	return 0, 0, false
}
