package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
)

// inheritedListener is the socket that systemd opened for this process (socket
// activation), nil if there is none. It outlives the process, so that clients wait
// while it is started anew and are not refused.
func inheritedListener() (net.Listener, error) {
	all, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("socket from systemd: %w", err)
	}
	var first net.Listener
	for _, l := range all {
		switch {
		case l == nil: // a socket of another kind
		case first == nil:
			first = l
		default:
			return nil, errors.Join(errors.New("systemd gave several sockets: want one, for the go command"), first.Close(), l.Close())
		}
	}
	return first, nil
}

// tell says to systemd how the process is; without systemd nobody listens.
func tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "err", err)
	}
}

// supervise tells systemd when the node serves and when it ends, and reads the
// configuration file again on SIGHUP, until ctx ends. The returned func ends it.
func supervise(c *cli.Context, n *node.Node, cfg node.Config) func() {
	ctx, cancel := context.WithCancel(c.Context)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	tell(cfg.Log, daemon.SdNotifyReady)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer signal.Stop(hup)
		for {
			select {
			case <-hup:
				tell(cfg.Log, daemon.SdNotifyReloading+"\n"+daemon.SdNotifyMonotonicUsec())
				reload(c, n, cfg.Log)
				tell(cfg.Log, daemon.SdNotifyReady)
			case <-ctx.Done():
				tell(cfg.Log, daemon.SdNotifyStopping)
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// reloadable are the keys that can change while a node runs.
var reloadable = []string{"log-level", "refresh", "max-size", "max-age"}

// reload reads the configuration file again, changes what can be changed while the
// node runs, and logs what cannot. A file with a fault changes nothing.
func reload(c *cli.Context, n *node.Node, log *slog.Logger) {
	path, err := configPath(c)
	if err != nil || path == "" {
		log.Warn("told to reload, but there is no configuration file", "err", err)
		return
	}
	changed, err := rereadConfig(c, path)
	if err != nil {
		log.Error("the configuration file was not reloaded: nothing has changed", "file", path, "err", err)
		return
	}
	r := node.Reloadable{Refresh: c.Duration("refresh")}
	if r.MaxSize, err = size(c, "max-size"); err == nil {
		r.MaxAge, err = age(c, "max-age")
	}
	if err == nil {
		err = setLevel(c)
	}
	if err != nil {
		log.Error("the configuration file was not reloaded", "file", path, "err", err)
		return
	}
	n.Reload(r)
	for _, key := range changed {
		if slices.Contains(reloadable, key) {
			log.Info("reloaded", "key", key, "value", c.Value(key))
		} else {
			log.Warn("this key takes effect at the next start", "key", key)
		}
	}
	log.Info("configuration file reloaded", "file", path, "changed", len(changed))
}

// rereadConfig reads the file again and returns the keys that have changed since,
// but for those that flags or environment outrank. The flags of those that are
// reloadable have their new values.
func rereadConfig(c *cli.Context, path string) ([]string, error) {
	before := configured(c)
	values, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(before)
	maps.Copy(all, values)
	var changed []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if reflect.DeepEqual(before[key], values[key]) {
			continue
		}
		if _, known := values[key]; known {
			if err := checkKey(c.App, key); err != nil {
				return nil, err
			}
		}
		if !hasFlag(c.Command, key) || c.IsSet(key) && originOf(c, key) != fromFile {
			continue
		}
		changed = append(changed, key)
	}
	for _, key := range changed {
		if slices.Contains(reloadable, key) {
			if err := changeTo(c, key, values); err != nil {
				return nil, err
			}
		}
	}
	c.App.Metadata[metaConfig] = values
	return changed, nil
}

// changeTo gives a flag the value of the file, or its default if the file has none
// any more.
func changeTo(c *cli.Context, key string, values map[string]any) error {
	value, ok := values[key]
	if !ok {
		value = defaultText(c.Command, key)
	}
	text, err := configText(value)
	if err == nil {
		err = c.Set(key, text)
	}
	if err != nil {
		return fmt.Errorf("key %q: %w", key, err)
	}
	return nil
}
