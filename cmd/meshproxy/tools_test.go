package main

import (
	"archive/zip"
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdUnzip unpacks a zip.
//
//	unzip FILE DIR
func cmdUnzip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: unzip FILE DIR")
	}
	z, err := zip.OpenReader(ts.MkAbs(args[0]))
	ts.Check(err)
	defer z.Close()
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), z))
}

// TestCompletionScripts has each shell that is there read its script.
func TestCompletionScripts(t *testing.T) {
	for shell, check := range map[string]string{
		"bash": `source <(meshproxy completion bash); COMP_WORDS=(meshproxy config sh); COMP_CWORD=2; _meshproxy; [[ ${COMPREPLY[*]} == show ]]`,
		"zsh":  `autoload -U compinit && compinit -u -D; source <(meshproxy completion zsh) && [[ -n ${_comps[meshproxy]} ]]`,
		"fish": `meshproxy completion fish | source; and complete -C "meshproxy doct" | string match -q "doctor*"`,
	} {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skipf("no %s on this machine", shell)
			}
			cmd := exec.Command(path, "-c", check)
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
