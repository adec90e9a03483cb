package store

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"google.golang.org/protobuf/proto"
)

const (
	manifestHead = 8         // bytes: magic and versions
	setHead      = 8         // bytes before each set of changes: length and CRC-32C
	maxManifest  = 256 << 20 // bytes; Badger rewrites it long before
)

// manifestSet is one set of changes of Badger's MANIFEST: all of it holds, or nothing.
type manifestSet struct {
	raw     []byte // with its head
	changes []*pb.ManifestChange
}

// mendManifest takes sets of changes out of Badger's MANIFEST that did not come to
// pass. Badger writes a set, syncs it, and lets what it says become true; if the sync
// fails it deletes the tables that the set creates and keeps the old ones, logs
// included, but the set stays written. Then it does not open again: a table is missing
// or empty. Without the set everything is as Badger last had it. A MANIFEST that does
// not become whole that way is left alone, for Badger to say what is wrong with it. It
// reports whether it changed anything: a table that was lost otherwise looks the same.
func mendManifest(dir string, log *slog.Logger) (mended bool, err error) {
	name := filepath.Join(dir, badger.ManifestFilename)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() > maxManifest {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return false, err
	}
	sets, ok := parseManifest(data)
	void := voidSets(dir, sets)
	if !ok || len(void) == 0 {
		return false, nil
	}
	text := data[:manifestHead:manifestHead]
	var kept []manifestSet
	for i, set := range sets {
		if !void[i] {
			kept = append(kept, set)
			text = append(text, set.raw...)
		}
	}
	for id := range liveTables(kept) {
		if !hasTable(dir, id) {
			return false, nil
		}
	}
	log.Warn("store takes back changes of tables that the disk did not take", "changes", len(void))
	return true, replaceFile(name, text)
}

// parseManifest splits a MANIFEST. It is not ok if a set is damaged; what is cut off
// at the end was never synced, and Badger drops it too.
func parseManifest(data []byte) (sets []manifestSet, ok bool) {
	if len(data) < manifestHead {
		return nil, false
	}
	for rest := data[manifestHead:]; len(rest) >= setHead; {
		size := uint64(binary.BigEndian.Uint32(rest)) + setHead
		if size > uint64(len(rest)) {
			break
		}
		var set pb.ManifestChangeSet
		if proto.Unmarshal(rest[setHead:size], &set) != nil {
			return nil, false
		}
		sets = append(sets, manifestSet{rest[:size], set.Changes})
		rest = rest[size:]
	}
	return sets, true
}

// liveTables are the tables that are created and not deleted, with the places of the
// sets that created them.
func liveTables(sets []manifestSet) map[uint64]int {
	live := make(map[uint64]int)
	for i, set := range sets {
		for _, c := range set.changes {
			if c.Op == pb.ManifestChange_CREATE {
				live[c.Id] = i
			} else {
				delete(live, c.Id)
			}
		}
	}
	return live
}

// voidSets are the places of sets of which no table is there that should be. A set
// of which only some are missing did come to pass: they were lost otherwise.
func voidSets(dir string, sets []manifestSet) map[int]bool {
	void, whole := make(map[int]bool), make(map[int]bool)
	for id, i := range liveTables(sets) {
		if hasTable(dir, id) {
			whole[i] = true
		} else {
			void[i] = true
		}
	}
	for i := range whole {
		delete(void, i)
	}
	return void
}

func hasTable(dir string, id uint64) bool {
	info, err := os.Stat(table.NewFilename(id, dir))
	return err == nil && info.Size() > 0
}

// replaceFile writes a file beside name, durably, and takes its place.
func replaceFile(name string, data []byte) error {
	tmp := name + ".mended"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	if err := syncFile(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	return syncFile(filepath.Dir(name))
}
