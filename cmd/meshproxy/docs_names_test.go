package main

import (
	"crypto/x509"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// documented finds command lines in a page: in the lines of blocks of code, and between
// back quotes in the text. What belongs to the shell ends them.
var documented = regexp.MustCompile("(?:^|[\x60(|&;/ \t])(meshproxy|make)((?: +[^\\s\x60#|&;()]+)+)")

// TestDocumentedNames reads every page and every file in deploy, also those commands
// that no test can run as they stand, because they need a token, a service manager or
// another machine: each command, flag and target of make that they name exists.
func TestDocumentedNames(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	targets, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	pages := []string{"../../README.md", "../../.ci/run"}
	for _, pattern := range []string{"../../docs/*.md", "../../deploy/*/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatal(pattern, found, err)
		}
		pages = append(pages, found...)
	}
	total := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(string(text), filepath.Ext(page) == ".md") {
			if filepath.Ext(page) != ".md" && unknownName(app, line[1:]) == "command "+line[1] {
				continue // prose of a comment
			}
			total++
			if line[0] == "make" {
				if !strings.Contains(string(targets), "\n"+line[1]+":") {
					t.Errorf("%s: there is no target of make %q", page, line[1])
				}
			} else if wrong := unknownName(app, line[1:]); wrong != "" {
				t.Errorf("%s: meshproxy %s: there is no %s", page, strings.Join(line[1:], " "), wrong)
			}
		}
	}
	if total < 80 {
		t.Errorf("%d commands were found in all pages, want more", total)
	}
}

// commandLines are the command lines of a page of Markdown, or of a script, in words.
func commandLines(page string, markdown bool) [][]string {
	var lines [][]string
	inBlock := !markdown
	for line := range strings.Lines(page) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inBlock = !inBlock
			continue
		}
		spans := []string{strings.TrimRight(line, "\n")}
		if !inBlock {
			spans = quoted(line)
		}
		for _, span := range spans {
			for _, found := range documented.FindAllStringSubmatch(span, -1) {
				if !inBlock && !strings.HasPrefix(span, found[0]) && !strings.HasPrefix(span, "bin/"+found[1]) {
					continue // an error's words
				}
				words := strings.Fields(strings.NewReplacer("[", "", "]", "", "\"", "", "'", "").Replace(found[2]))
				if len(words) > 0 && regexp.MustCompile(`^[a-z][a-z-]*$`).MatchString(words[0]) {
					lines = append(lines, append([]string{found[1]}, words...))
				}
			}
		}
	}
	return lines
}

// quoted are the parts of a line between back quotes.
func quoted(line string) []string {
	var spans []string
	for i, part := range strings.Split(line, "`") {
		if i%2 == 1 {
			spans = append(spans, part)
		}
	}
	return spans
}

// unknownName is the first word of a command line that names nothing.
func unknownName(app *cli.App, words []string) string {
	commands := app.Commands
	var cmd *cli.Command
	for len(words) > 0 {
		next := findCommand(commands, words[0])
		if next == nil {
			break
		}
		cmd, commands, words = next, next.Subcommands, words[1:]
	}
	if cmd == nil {
		return "command " + words[0]
	}
	if len(cmd.Subcommands) > 0 && len(words) > 0 && !strings.HasPrefix(words[0], "-") {
		return "command " + words[0]
	}
	for _, word := range words {
		name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if strings.HasPrefix(word, "-") && len(name) > 0 && findFlag(cmd, name) == nil && !slices.Contains(cli.HelpFlag.Names(), name) {
			return "flag " + word
		}
	}
	return ""
}

func TestUnknownName(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	for line, want := range map[string]string{
		"serve --listen 127.0.0.1:3000": "",
		"config show":                   "",
		"config shw":                    "command shw",
		"srve":                          "command srve",
		"serve --lisen=x":               "flag --lisen=x",
		"backup -":                      "",
	} {
		t.Run(line, func(t *testing.T) {
			if got := unknownName(app, strings.Fields(line)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestTroubleshootingTexts holds docs/troubleshooting.md to the code: each text that it
// explains, between two …, is in a source file.
func TestTroubleshootingTexts(t *testing.T) {
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	code := sources(t)
	texts := 0
	for line := range strings.Lines(string(page)) {
		cell, ok := strings.CutPrefix(line, "| ")
		if !ok {
			continue
		}
		cell, _, _ = strings.Cut(cell, " |")
		for _, text := range quoted(cell) {
			for part := range strings.SplitSeq(text, "…") {
				texts++
				if !strings.Contains(code, strings.Trim(part, " ")) {
					t.Errorf("nothing says %q", part)
				}
			}
		}
	}
	if texts < 50 {
		t.Errorf("%d texts were found, want more", texts)
	}
}

// sources is the text of all source files but tests, and what TLS says of a clock.
func sources(t *testing.T) string {
	var all strings.Builder
	all.WriteString(x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time"}.Error() + "\n")
	for _, dir := range []string{"cmd", "node", "mesh", "store", "protocol", "verify"} {
		err := filepath.WalkDir("../../"+dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
