package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// version is stamped by the linker (-X main.version=…) in releases; otherwise
// the go command's own stamp is used.
var version string

type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisVersion() versionInfo {
	v := versionInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if v.Version == "" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Revision = s.Value
			}
		}
	}
	if v.Version == "" {
		v.Version = "(devel)"
	}
	return v
}

func versionCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "version",
		Usage: "print the version",
		Description: `Example:

   meshproxy version --json`,
		Flags: []cli.Flag{jsonFlag()},
	}, printVersion)
}

func printVersion(c *cli.Context) error {
	v := thisVersion()
	return reportTo(c, false, v, fmt.Sprintf("meshproxy %s %s %s", v.Version, v.Go, v.Platform))
}
