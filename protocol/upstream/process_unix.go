//go:build unix

package upstream

import (
	"os/exec"
	"syscall"
)

// ownGroup lets a command's whole process group die with it: a git that waits
// for a dead server must not outlive the go command that started it.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
