package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func publishCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "publish",
		Usage:     "add a module version that is in no version control: a fork, a patched release",
		ArgsUsage: "DIR|ZIP MODULE@VERSION",
		Description: `Admins must have allowed this office to publish the module, with a publish rule in the
policy of the mesh. The version is signed by this office and never changes. Modules that
a checksum database covers cannot be published: name them in --nosumdb of all offices.

Examples:

   meshproxy publish . example.com/acme/log@v1.2.4-patched
   meshproxy publish log.zip example.com/acme/log@v1.2.4-patched`,
		Flags: append(officeFlags(), jsonFlag()),
	}, func(c *cli.Context) error {
		m, err := parseModule(c.Args().Get(1))
		if err != nil {
			return err
		}
		path, err := filepath.Abs(c.Args().First())
		if err != nil {
			return err
		}
		return withOffice(c, func(ctx context.Context, ctl node.Control) error {
			w, err := ctl.Publish(ctx, node.Publication{Module: m, Path: path})
			if err != nil {
				return err
			}
			return show(c, w, func(c *cli.Context, w *node.Why) error {
				_, err := fmt.Fprintf(c.App.Writer, "Published %s.\n", w.Module)
				return err
			})
		})
	})
}
