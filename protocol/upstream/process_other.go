//go:build !unix

package upstream

import "os/exec"

// ownGroup does nothing where there are no process groups: the command itself
// is killed, and Cmd.WaitDelay ends the wait for what it started.
func ownGroup(*exec.Cmd) {}
