package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// completeFlag is what the shells' functions put behind a command line to be told
// how it could go on.
const completeFlag = "--generate-bash-completion"

const bashCompletion = `_meshproxy() {
	local cur="${COMP_WORDS[COMP_CWORD]}" words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
	[[ "$cur" == -* ]] && words+=("$cur")
	COMPREPLY=($(compgen -W "$(meshproxy "${words[@]}" ` + completeFlag + ` 2>/dev/null)" -- "$cur"))
	[[ ${#COMPREPLY[@]} -eq 0 ]] && COMPREPLY=($(compgen -f -- "$cur"))
}
complete -o filenames -F _meshproxy meshproxy
`

const zshCompletion = `#compdef meshproxy
_meshproxy() {
	local -a opts before
	local cur=${words[CURRENT]}
	before=("${(@)words[2,CURRENT-1]}")
	[[ "$cur" == -* ]] && before+=("$cur")
	opts=("${(@f)$(_CLI_ZSH_AUTOCOMPLETE_HACK=1 meshproxy ${before} ` + completeFlag + ` 2>/dev/null)}")
	if [[ -n "${opts[1]}" ]]; then
		_describe 'values' opts
	else
		_files
	fi
}
if [[ "$funcstack[1]" == _meshproxy ]]; then _meshproxy "$@"; else compdef _meshproxy meshproxy; fi
`

func completionCommand() *cli.Command {
	return command(&cli.Command{
		Name:      "completion",
		Usage:     "print what makes a shell complete commands and flags",
		ArgsUsage: "bash|zsh|fish",
		Description: `Examples:

   source <(meshproxy completion bash)                       # in ~/.bashrc
   source <(meshproxy completion zsh)                        # in ~/.zshrc
   meshproxy completion fish | source                        # in config.fish`,
	}, func(c *cli.Context) error {
		text := ""
		switch shell := c.Args().First(); shell {
		case "bash":
			text = bashCompletion
		case "zsh":
			text = zshCompletion
		case "fish":
			var err error
			if text, err = c.App.ToFishCompletion(); err != nil {
				return err
			}
		default:
			return misuse("shell %q: want bash, zsh or fish", shell)
		}
		_, err := fmt.Fprint(c.App.Writer, text)
		return err
	})
}

func manCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "man",
		Usage: "print the manual page",
		Description: `Examples:

   meshproxy man | man -l -
   meshproxy man > /usr/local/share/man/man8/meshproxy.8`,
	}, func(c *cli.Context) error {
		describeForManual(c.App.Commands)
		text, err := c.App.ToManWithSection(8)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(c.App.Writer, text)
		return err
	})
}

// describeForManual has the manual say of each command what its help does: left to
// itself it has one line for each. Examples are indented as Markdown wants code.
func describeForManual(commands []*cli.Command) {
	for _, cmd := range commands {
		if cmd.Description != "" {
			cmd.Usage += ".\n\n" + strings.ReplaceAll(cmd.Description, "\n   ", "\n    ")
		}
		describeForManual(cmd.Subcommands)
	}
}
