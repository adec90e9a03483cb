package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func invitesCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:  "invites",
		Usage: "list the invitations, or withdraw one",
		Description: `Examples:

   meshproxy invites
   meshproxy invites --withdraw ID`,
		Flags: []cli.Flag{jsonFlag(), &cli.StringFlag{Name: "withdraw", Usage: "end the invitation `ID`; who has joined by it stays"}},
	}, func(c *cli.Context, ctl node.Control) error {
		if id := c.String("withdraw"); id != "" {
			return ctl.Withdraw(c.Context, id)
		}
		list, err := ctl.Invitations(c.Context)
		if err != nil {
			return fmt.Errorf("invites: %w", err)
		}
		return show(c, list, orSay(printInvitations, "No invitations. To make one: meshproxy invite"))
	})
}

func printInvitations(c *cli.Context, list []node.OpenInvitation) error {
	t := newTable(c.App.Writer, "ID", "role", "office", "used", "state", "by")
	for _, i := range list {
		state := "until " + i.Expires.Local().Format(time.DateTime)
		switch {
		case i.Withdrawn:
			state = "withdrawn"
		case time.Now().After(i.Expires):
			state = "expired"
		case len(i.Joined) > i.Uses:
			state = "used too often"
		case len(i.Joined) == i.Uses:
			state = "used up"
		}
		t.AppendRow([]any{i.ID, i.Role, i.Office, fmt.Sprintf("%d of %d", len(i.Joined), i.Uses), state, i.By})
	}
	return printTable(c.App.Writer, t)
}

func revokeCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:      "revoke",
		Usage:     "throw a member out of the mesh",
		ArgsUsage: "PEER|OFFICE",
		Description: `Takes effect at once on the members that are connected, and on the others as soon as
they meet anyone who knows.

Examples:

   meshproxy revoke lisbon
   meshproxy revoke --reason "laptop stolen" 12D3KooW...`,
		Flags: []cli.Flag{jsonFlag(), &cli.StringFlag{Name: "reason", Usage: "say why, for the other admins: `TEXT`"}},
	}, func(c *cli.Context, ctl node.Control) error {
		out, err := ctl.Revoke(c.Context, node.Revocation{Who: c.Args().First(), Reason: c.String("reason")})
		if err != nil {
			return err
		}
		return reportTo(c, false, map[string][]string{"out": out}, "Out: "+strings.Join(out, " "))
	})
}

func leaveCommand() *cli.Command {
	return doCommand(&cli.Command{
		Name:  "leave",
		Usage: "take this office out of its mesh",
		Description: `The office keeps what it holds, and is then alone in a mesh of its own.

Example:

   meshproxy leave`,
	}, func(c *cli.Context, ctl node.Control) error { return ctl.Leave(c.Context) })
}

func rotateCommand() *cli.Command {
	return doCommand(&cli.Command{
		Name:  "rotate",
		Usage: "give the mesh a new key, after the old one or an admin's key has leaked",
		Description: `Every member comes along, but for those named; open invitations end.

Examples:

   meshproxy rotate
   meshproxy rotate --without 12D3KooW...`,
		Flags: []cli.Flag{&cli.StringSliceFlag{Name: "without", Usage: "leave this member behind, by `PEER` ID"}},
	}, func(c *cli.Context, ctl node.Control) error { return ctl.Rotate(c.Context, c.StringSlice("without")) })
}
