package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/protocol"
)

const catClients = "Clients"

// clientFlags are those of who is served.
func clientFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{
			Name: "tokens", EnvVars: env("tokens"), TakesFile: true, Category: catClients,
			Usage: "serve only clients with a token of this `FILE`, see: meshproxy client-token",
		},
		&cli.StringSliceFlag{
			Name: "allow-clients", EnvVars: env("allow-clients"), Category: catClients,
			Usage: "serve only clients in this network, `CIDR`",
		},
		&cli.Float64Flag{
			Name: "client-rate", EnvVars: env("client-rate"), Category: catClients,
			Usage: "answer at most this `NUMBER` of requests a second of one client; 0 for no limit",
		},
		&cli.StringFlag{
			Name: "tls-cert", EnvVars: env("tls-cert"), TakesFile: true, Category: catClients,
			Usage: "serve https with the certificate in this PEM `FILE`; it is read again when it changes",
		},
		&cli.StringFlag{
			Name: "tls-key", EnvVars: env("tls-key"), TakesFile: true, Category: catClients,
			Usage: "and its key in this PEM `FILE`",
		},
		&cli.BoolFlag{
			Name: "audit-requests", EnvVars: env("audit-requests"), Category: catClients,
			Usage: "write down in the audit log who asks for what",
		},
	}
}

// clientsConfig reads the flags of clientFlags.
func clientsConfig(c *cli.Context, cfg *node.Config) error {
	cfg.Clients = node.ClientsConfig{
		TokenFile: c.String("tokens"), Rate: c.Float64("client-rate"),
		TLSCert: c.String("tls-cert"), TLSKey: c.String("tls-key"), Audit: c.Bool("audit-requests"),
	}
	if cfg.Clients.Rate < 0 {
		return misuse("--client-rate %g: want a number above zero", cfg.Clients.Rate)
	}
	for _, text := range c.StringSlice("allow-clients") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil {
				return misuse("--allow-clients %q: want a network like 10.1.0.0/16", text)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		cfg.Clients.Allow = append(cfg.Clients.Allow, p.Masked())
	}
	return nil
}

func clientTokenCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "client-token",
		Usage:     "make a token with which a client is served",
		ArgsUsage: "NAME",
		Description: `Prints the secret, which is kept nowhere, and adds its hash to a file for serve --tokens.
A client uses it as a bearer token, or NAME and the secret as user and password: the go
command takes them from .netrc.

Examples:

   meshproxy client-token --tokens tokens ci
   meshproxy client-token --tokens tokens --modules 'example.com/public/*' partner`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.StringFlag{Name: "tokens", EnvVars: env("tokens"), TakesFile: true, Usage: "add the hash to this `FILE`"},
			&cli.StringFlag{Name: "modules", Usage: "the token is good for these `PATTERNS` only, written like GOPRIVATE"},
		},
		Before: func(c *cli.Context) error {
			if c.String("tokens") == "" {
				return misuse("--tokens is missing: the file that serve --tokens reads; see: %s --help", commandName(c))
			}
			return nil
		},
	}, func(c *cli.Context) error {
		secret, t, err := protocol.NewToken(c.Args().First(), c.String("modules"))
		if err != nil {
			return misuse("%w", err)
		}
		if err := addToken(c.String("tokens"), t); err != nil {
			return fmt.Errorf("client-token: %w", err)
		}
		_, err = fmt.Fprintln(c.App.Writer, secret)
		return err
	})
}

// addToken adds a line to a file of tokens. Two clients of one name would hide each
// other.
func addToken(path string, t protocol.Token) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := readFile(path, protocol.MaxTokens)
	if err != nil {
		return err
	}
	list, err := protocol.ParseTokens(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, have := range list {
		if have.Name == t.Name {
			return fmt.Errorf("%s: there is a token for %s already; remove its line first", path, t.Name)
		}
	}
	line := t.String() + "\n"
	if len(text) > 0 && text[len(text)-1] != '\n' {
		line = "\n" + line
	}
	_, err = f.WriteString(line)
	return err
}
