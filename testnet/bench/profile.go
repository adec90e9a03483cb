package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/meshproxy/meshproxy/testnet/process"
)

// profiled runs work, and if a profile was asked for, has the office record what
// its processors do meanwhile, and what its memory holds afterwards.
func (b *bench) profiled(ctx context.Context, o *process.Office, work func() error) error {
	if b.profile == "" {
		return work()
	}
	done := make(chan error, 1)
	go func() { done <- b.record(ctx, o, "profile?seconds=10", b.profile+".cpu") }()
	if err := work(); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	return b.record(ctx, o, "heap", b.profile+".heap")
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
