package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshproxy/meshproxy/testnet/process"
)

// offices by what they are called here.
type offices map[string]*process.Office

// profiled runs work, and if a profile was asked for, has offices record what their
// processors do meanwhile, and what their memory holds afterwards. What an office is
// called is a part of its files' names.
func (b *bench) profiled(ctx context.Context, all offices, work func() error) error {
	if b.Profile == "" {
		return work()
	}
	var g errgroup.Group
	for name, o := range all {
		g.Go(func() error { return b.record(ctx, o, "profile?seconds=10", b.Profile+"."+name+".cpu") })
	}
	if err := work(); err != nil {
		return err
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for name, o := range all {
		if err := b.record(ctx, o, "heap", b.Profile+"."+name+".heap"); err != nil {
			return err
		}
	}
	return nil
}

// record saves one of the profiles that an office offers on its control socket.
func (b *bench) record(ctx context.Context, o *process.Office, what, file string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(o.Data(), "control.sock"))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://office/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer resp.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
