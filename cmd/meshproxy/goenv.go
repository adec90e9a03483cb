package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

const goEnvTimeout = 30 * time.Second

// goEnv is what the go command on this machine uses: the defaults for
// everything that its own configuration already says.
type goEnv struct {
	GOPROXY, GOSUMDB, GONOSUMDB, GONOPROXY string
}

var errNoGo = errors.New("the go command was not found")

// readGoEnv asks the go command. extra is put into its environment.
func readGoEnv(ctx context.Context, extra ...string) (goEnv, error) {
	var e goEnv
	path, err := exec.LookPath("go")
	if err != nil {
		return e, errNoGo
	}
	ctx, cancel := context.WithTimeout(ctx, goEnvTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "env", "-json", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY")
	// A toolchain line of a go.mod that happens to lie around must not be obeyed.
	cmd.Dir = os.TempDir()
	cmd.Env = append(os.Environ(), append([]string{"GOTOOLCHAIN=local", "GOWORK=off"}, extra...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return e, fmt.Errorf("go env: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(out, &e); err != nil {
		return e, fmt.Errorf("go env: %w", err)
	}
	return e, nil
}

// defaultUpstream is GOPROXY without this node's own address. Who has pointed
// the go command at this node alone gets the go command's built-in list.
func defaultUpstream(ctx context.Context, e goEnv, own func(proxy string) bool) (string, error) {
	if list := without(e.GOPROXY, own); list != "" {
		return list, nil
	}
	builtin, err := readGoEnv(ctx, "GOENV=off", "GOPROXY=")
	if err != nil {
		return "", err
	}
	if list := without(builtin.GOPROXY, own); list != "" {
		return list, nil
	}
	return "off", nil
}

// without drops the proxies that drop picks from a GOPROXY list, each with the
// separator after it, and keeps the rest as it is.
func without(list string, drop func(string) bool) string {
	var kept strings.Builder
	for list != "" {
		end := strings.IndexAny(list, ",|")
		entry, sep := list, ""
		if end >= 0 {
			entry, sep = list[:end], list[end:end+1]
		}
		list = list[len(entry)+len(sep):]
		if entry = strings.TrimSpace(entry); entry != "" && !drop(entry) {
			kept.WriteString(entry + sep)
		}
	}
	return strings.TrimRight(kept.String(), ",|")
}
