package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/store"
)

// storeRows are the rows of status about what is held and how it is kept.
func storeRows(row func(name string, value any), st *node.Status) {
	h, u := st.Store, st.Upkeep
	row("holds", fmt.Sprintf("%d releases, %d zips, %d files (%d of them in several zips)", h.Releases, h.Zips, h.Files, h.Shared))
	row("size", fmt.Sprintf("%s of zips are kept in %s, of which zips share %s; %s on disk",
		bytesText(h.Logical), bytesText(h.Stored), bytesText(h.Saved), bytesText(h.Disk)))
	if st.Running {
		row("limits", limitsText(u))
	}
	if u.Pins > 0 {
		row("pinned", fmt.Sprintf("%d patterns; see: meshproxy pin", u.Pins))
	}
	if !u.Collected.IsZero() {
		row("last gc", fmt.Sprintf("%s: %d zips dropped, %s freed, %d last copies kept", agoText(u.Collected), u.Dropped, bytesText(u.Freed), u.Kept))
	}
	switch {
	case u.Scrubbing:
		row("scrub", "under way")
	case !u.Scrubbed.IsZero():
		row("scrub", fmt.Sprintf("%s: %d damaged", agoText(u.Scrubbed), u.Found))
	}
	if u.Damaged > 0 {
		row("DAMAGED", fmt.Sprintf("%d files, not served until they are healed; see: meshproxy verify", u.Damaged))
	}
}

func limitsText(u node.Upkeep) string {
	var limits []string
	if u.MaxSize > 0 {
		limits = append(limits, bytesText(u.MaxSize))
	}
	if u.MaxAge > 0 {
		limits = append(limits, "unused for "+ageText(u.MaxAge))
	}
	if len(limits) == 0 {
		return "none: nothing is dropped"
	}
	return strings.Join(limits, ", ")
}

func printModules(c *cli.Context, list []store.Usage) error {
	t := newTable(c.App.Writer, "module", "zips", "pinned", "size", "files", "stored", "shared with others", "last read")
	for _, u := range list {
		t.AppendRow([]any{u.Path, u.Zips, u.Pinned, bytesText(u.ZipBytes), u.Files, bytesText(u.FileBytes), bytesText(u.SharedBytes), agoText(u.Read)})
	}
	return printTable(c.App.Writer, t)
}
