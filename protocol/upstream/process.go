package upstream

import (
	"context"
	"os/exec"
	"time"
)

const (
	maxOutput = 8 << 20         // of a program: the go command's list of versions is the longest
	maxStderr = 64 << 10        // of its messages, the end of which is kept
	waitDelay = 5 * time.Second // from the kill to giving up on children that hold its output open
)

// result is what a program said.
type result struct {
	out  []byte
	over bool // it said more than maxOutput; out is the beginning
	text string
}

// newCommand prepares a program that dies with ctx, together with all that it
// started.
func newCommand(ctx context.Context, dir string, env []string, words ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, env, waitDelay
	ownGroup(cmd)
	return cmd
}

// runCommand runs a program and keeps what it says within limits.
func runCommand(cmd *exec.Cmd) (result, error) {
	stdout, stderr := &head{most: maxOutput}, &tail{most: maxStderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	return result{stdout.kept, stdout.over, string(stderr.kept)}, err
}

// head keeps the beginning of what is written to it.
type head struct {
	kept []byte
	most int
	over bool
}

// Write implements io.Writer; it never fails, so that the writer can end.
func (h *head) Write(p []byte) (int, error) {
	room := min(h.most-len(h.kept), len(p))
	h.over = h.over || room < len(p)
	h.kept = append(h.kept, p[:room]...)
	return len(p), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	kept []byte
	most int
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - t.most; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}
