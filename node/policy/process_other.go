//go:build !unix

package policy

import "os/exec"

// alone does nothing where there are no process groups: only the command itself is
// ended.
func alone(*exec.Cmd) {}
