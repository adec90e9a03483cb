//go:build unix

package policy

import (
	"os/exec"
	"syscall"
)

// alone gives a command a process group of its own, all of which ends with it: what
// a script has started must not outlive it.
func alone(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
