//go:build unix

package process

import "syscall"

// Freeze stops the process where it is, with its connections open and silent: a
// machine that hangs. Thaw lets it go on; Kill works too.
func (o *Office) Freeze() error { return o.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (o *Office) Thaw() error { return o.cmd.Process.Signal(syscall.SIGCONT) }
