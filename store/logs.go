package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"
)

// logHeader is how a value log begins: the number of its key, none, and the
// initial vector that only encryption uses, in bytes.
const logHeader = 8 + 12

// spareNewestLog keeps Badger from cutting off the newest value log at the first
// value that a flipped bit has spoilt, with all the good ones behind it: it does so
// with the last log whenever it opens, because that may have been torn by a crash.
// A log that was closed in good order is not torn, so another, empty one is put
// behind it. After a crash, when the log still has the length it was made with,
// there is nothing to be spared: its end is not known otherwise.
func spareNewestLog(dir string, o badger.Options) error {
	newest, size, err := newestLog(dir)
	if err != nil || newest == 0 || size <= logHeader || size >= 2*o.ValueLogFileSize {
		return err
	}
	name := filepath.Join(dir, fmt.Sprintf("%06d.vlog", newest+1))
	if err := os.WriteFile(name, make([]byte, logHeader), 0o600); err != nil {
		return err
	}
	return syncFile(name)
}

// newestLog is the number and size of the last value log; 0 if there is none.
func newestLog(dir string) (newest uint64, size int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		number, isLog := strings.CutSuffix(e.Name(), ".vlog")
		id, nerr := strconv.ParseUint(number, 10, 32)
		if !isLog || nerr != nil || id < newest {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return 0, 0, err
		}
		newest, size = id, info.Size()
	}
	return newest, size, nil
}
