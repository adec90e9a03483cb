package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/mesh"
)

const (
	catServe = "What is served"
	catMesh  = "The mesh"
	catFetch = "Where modules come from"
	catKeep  = "What is kept"
	catLog   = "The log"
)

// env names the variable that stands for a flag.
func env(flag string) []string {
	return []string{envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))}
}

func configFlag() cli.Flag {
	return &cli.StringFlag{
		Name: flagConfig, EnvVars: env(flagConfig), TakesFile: true,
		Usage: "read flags from this TOML or YAML `FILE`; a flag or variable outranks it",
	}
}

const (
	flagConfig = "config"
	envPrefix  = "MESHPROXY_"
)

func dataFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "data", EnvVars: env("data"), TakesFile: true,
		Value: defaultData(), DefaultText: "the user's data directory",
		Usage: "keep everything in this `DIR`",
	}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", EnvVars: env("json"), Usage: "print JSON"}
}

// atFlags are those of every command that works on a data directory.
func atFlags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{dataFlag(), configFlag()}, more...)
}

// serveFlags are those of the commands that end up serving.
func serveFlags(more ...cli.Flag) []cli.Flag {
	flags := []cli.Flag{
		&cli.StringFlag{
			Name: "listen", EnvVars: env("listen"), Value: "127.0.0.1:3000", Category: catServe,
			Usage: "serve the go command at this `HOST:PORT`; port 0 chooses one",
		},
		&cli.StringSliceFlag{
			Name: "p2p", EnvVars: env("p2p"), Category: catMesh,
			Value:       cli.NewStringSlice(mesh.DefaultListen...),
			DefaultText: strings.Join(mesh.DefaultListen, ","),
			Usage:       "meet other offices at these addresses, each a `MULTIADDR`; port 0 chooses one",
		},
		&cli.StringFlag{
			Name: "office", EnvVars: env("office"), DefaultText: "the host's name", Category: catMesh,
			Usage: "call this office `NAME` (an invitation with a name outranks it)",
		},
		&cli.StringFlag{
			Name: "upstream", EnvVars: env("upstream"), DefaultText: "go env GOPROXY", Category: catFetch,
			Usage: "fetch what no office has from this `LIST`, written like GOPROXY; off for never",
		},
		&cli.StringFlag{
			Name: "sumdb", EnvVars: env("sumdb"), DefaultText: "go env GOSUMDB", Category: catFetch,
			Usage: "check modules with this database, `SPEC` is written like GOSUMDB; off for none",
		},
		&cli.StringFlag{
			Name: "nosumdb", EnvVars: env("nosumdb"), DefaultText: "go env GONOSUMDB", Category: catFetch,
			Usage: "`PATTERNS` of modules that no checksum database knows, written like GONOSUMDB",
		},
		&cli.StringFlag{
			Name: "noproxy", EnvVars: env("noproxy"), DefaultText: "go env GONOPROXY", Category: catFetch,
			Usage: "`PATTERNS` of modules to fetch from their repositories only, written like GONOPROXY",
		},
		&cli.DurationFlag{
			Name: "refresh", EnvVars: env("refresh"), Value: time.Minute, Category: catFetch,
			Usage: "ask again for lists of versions, latest versions and branches after this `TIME`",
		},
		sizeFlag("max-size", "drop zips that were not used for long when files take more than this `SIZE`, like 20GB", catKeep),
		ageFlag("max-age", "drop zips that were not used for this `TIME`, like 90d", catKeep),
		sizeFlag("scrub-rate", "read and hash everything again once a day, this much in a second: `SIZE`, or off (default: 4MiB)", catKeep),
		&cli.DurationFlag{
			Name: "drain", EnvVars: env("drain"), Category: catServe,
			Usage: "when told to end, go on answering for this `TIME` while /readyz says no, so that a load balancer can look elsewhere",
		},
		&cli.StringFlag{
			Name: "log-level", EnvVars: env("log-level"), Value: "info", Category: catLog,
			Usage: "`LEVEL`: debug, info, warn or error",
		},
		&cli.StringFlag{
			Name: "log-format", EnvVars: env("log-format"), Value: "text", Category: catLog,
			Usage: "`FORMAT`: text or json",
		},
	}
	return append(append(append(atFlags(flags...), append(append(reachFlags(), uiFlags()...), tracingFlags()...)...), append(append(sharingFlags(), policyFlags()...), clientFlags()...)...), more...)
}

// defaultData is the directory in which this system keeps an application's data
// for a user; below the working directory when the user has no home.
func defaultData() string {
	const name = "meshproxy"
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, name)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return name + "-data"
	}
	switch runtime.GOOS {
	case "windows":
		if dir := os.Getenv("LocalAppData"); dir != "" {
			return filepath.Join(dir, name)
		}
	case "darwin", "ios":
		return filepath.Join(home, "Library", "Application Support", name)
	}
	return filepath.Join(home, ".local", "share", name)
}
