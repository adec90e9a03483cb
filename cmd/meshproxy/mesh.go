package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

func inviteCommand() *cli.Command {
	return askCommand(&cli.Command{
		Name:  "invite",
		Usage: "make a token that lets one more office in",
		Description: `Prints the token alone on standard output. Give it to the other office by a way
you trust: until it expires, whoever has it can join.

Examples:

   meshproxy invite
   meshproxy invite --office lisbon --ttl 1h
   meshproxy invite --role admin          # may invite and revoke, too`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "role", EnvVars: env("role"), Value: "member", Usage: "what the newcomer may do: `ROLE` is member or admin"},
			// no setting: that is this office's own name
			&cli.StringFlag{Name: "office", Usage: "the newcomer's `NAME`; it chooses one itself if none is given"},
			&cli.DurationFlag{Name: "ttl", EnvVars: env("ttl"), Value: 24 * time.Hour, Usage: "the token can be used for this `TIME`"},
			&cli.IntFlag{Name: "uses", EnvVars: env("uses"), Value: 1, Usage: "so many offices (`N`) can join with it"},
			jsonFlag(),
		},
		Before: func(c *cli.Context) error { return checkInvitation(invitation(c)) },
	}, func(c *cli.Context, ctl node.Control) error {
		token, err := ctl.Invite(c.Context, invitation(c))
		if err != nil {
			return err
		}
		return reportTo(c, false, map[string]string{"token": token}, token)
	})
}

func invitation(c *cli.Context) node.Invitation {
	return node.Invitation{Role: c.String("role"), Office: c.String("office"), TTL: c.Duration("ttl"), Uses: c.Int("uses")}
}

func checkInvitation(inv node.Invitation) error {
	if inv.Role != "member" && inv.Role != "admin" {
		return misuse("--role %q: want member or admin", inv.Role)
	}
	if inv.TTL <= 0 {
		return misuse("--ttl %v: want a time above zero", inv.TTL)
	}
	if inv.Uses < 1 {
		return misuse("--uses %d: want at least 1", inv.Uses)
	}
	return nil
}

func peersCommand() *cli.Command {
	return showCommand(&cli.Command{
		Name:  "peers",
		Usage: "list the other offices",
		Description: `The number of zips is what the office said last that it holds, but for those that
not every member may have.

Examples:

   meshproxy peers
   meshproxy peers --json`,
	}, func(c *cli.Context, ctl node.Control) ([]node.Peer, error) {
		peers, err := ctl.Peers(c.Context)
		return append([]node.Peer{}, peers...), err
	}, orSay(printPeers, "No other office yet. To add one: meshproxy invite"))
}

func printPeers(c *cli.Context, peers []node.Peer) error {
	t := newTable(c.App.Writer, "office", "role", "state", "rtt", "zips", "seen", "member until", "peer ID", "address")
	for _, p := range peers {
		state := "away"
		if p.Connected {
			state = "connected"
			if p.How != "" {
				state = p.How
			}
		}
		if p.Lies > 0 {
			state += fmt.Sprintf(", lied %d times", p.Lies)
		}
		rtt := ""
		if p.RTT > 0 {
			rtt = p.RTT.Round(100 * time.Microsecond).String()
		}
		zips := ""
		if p.Zips != nil {
			zips = fmt.Sprint(*p.Zips)
		}
		t.AppendRow([]any{p.Office, p.Role, state, rtt, zips, agoText(p.Seen), p.Expires.Local().Format(time.DateOnly), p.ID, p.Addr})
	}
	return printTable(c.App.Writer, t)
}
