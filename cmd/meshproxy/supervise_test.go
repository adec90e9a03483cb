//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A supervisor starts the program as systemd does: with a socket that is its own,
// and one to be told on.
type supervisor struct {
	t      *testing.T
	dir    string
	socket *os.File
	told   chan string
}

func newSupervisor(t *testing.T) (*supervisor, string) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // the copy stays
	s := &supervisor{t: t, dir: t.TempDir(), told: make(chan string, 100)}
	if s.socket, err = l.File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.socket.Close() })
	ears, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.notifyPath(), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		buf := make([]byte, 4<<10)
		for {
			n, err := ears.Read(buf)
			if err != nil {
				return
			}
			s.told <- string(buf[:n])
		}
	})
	t.Cleanup(func() { ears.Close(); listening.Wait() })
	return s, l.Addr().String()
}

func (s *supervisor) notifyPath() string { return filepath.Join(s.dir, "n") }

// launch runs serve; what it ends with is sent when it does. Its log is complete then.
func (s *supervisor) launch(args ...string) (cmd *exec.Cmd, ended chan error, log *strings.Builder) {
	s.t.Helper()
	// The variable names the process that the socket is for.
	line := `LISTEN_PID=$$ exec meshproxy serve "$@"`
	cmd = exec.Command("sh", append([]string{"-c", line, "sh", "--data", filepath.Join(s.dir, "d"), "--p2p", "/ip4/127.0.0.1/tcp/0",
		"--no-lan", "--upstream", "off", "--sumdb", "off"}, args...)...)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "NOTIFY_SOCKET="+s.notifyPath(), "XDG_CONFIG_HOME="+s.dir, "GORACE="+raceOptions)
	cmd.ExtraFiles = []*os.File{s.socket}
	log = new(strings.Builder)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return cmd, ended, log
}

// start runs serve until the returned func ends it.
func (s *supervisor) start(args ...string) (pid int, stop func()) {
	s.t.Helper()
	cmd, ended, log := s.launch(args...)
	return cmd.Process.Pid, func() {
		s.t.Helper()
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			s.t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err != nil {
				s.t.Fatalf("serve: %v\n%s", err, log)
			}
		case <-time.After(patience):
			s.t.Fatal("serve does not end")
		}
	}
}

// TestSecondSignal interrupts a node that takes an hour to end, again and again: the
// first time begins that, the next one that is not lost beside it ends the process.
func TestSecondSignal(t *testing.T) {
	s, _ := newSupervisor(t)
	cmd, ended, log := s.launch("--drain", "1h")
	s.wait("READY=1")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.wait("STOPPING=1")
	limit := time.After(patience)
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
				t.Fatalf("ended with %v, want by the signal\n%s", err, log)
			}
			return
		case <-limit:
			cmd.Process.Kill()
			<-ended
			t.Fatalf("a second signal does not end it\n%s", log)
		case <-time.After(50 * time.Millisecond):
			_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		}
	}
}

// wait waits until the supervisor was told something.
func (s *supervisor) wait(want string) {
	s.t.Helper()
	limit := time.After(patience)
	for {
		select {
		case got := <-s.told:
			if strings.HasPrefix(got, want) {
				return
			}
		case <-limit:
			s.t.Fatalf("%s was not told", want)
		}
	}
}

// TestRestartRefusesNobody starts the node again and again on a socket that stays,
// while a client asks it without pause.
func TestRestartRefusesNobody(t *testing.T) {
	s, addr := newSupervisor(t)
	_, stop := s.start()
	s.wait("READY=1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asking sync.WaitGroup
	failures := make(chan error, 1000)
	answers := make(chan struct{}, 1<<20)
	for range 4 {
		client := &http.Client{Transport: &http.Transport{}, Timeout: patience}
		defer client.CloseIdleConnections()
		asking.Go(func() {
			for ctx.Err() == nil {
				if err := askOnce(client, "http://"+addr+"/index"); err != nil {
					failures <- err
					return
				}
				answers <- struct{}{}
			}
		})
	}
	for range 2 {
		for range 20 {
			select {
			case <-answers:
			case <-time.After(patience):
				t.Fatal("no answers")
			}
		}
		stop()
		s.wait("STOPPING=1")
		_, stop = s.start()
		s.wait("READY=1")
		for len(answers) > 0 {
			<-answers
		}
	}
	cancel()
	asking.Wait()
	stop()
	close(failures)
	for err := range failures {
		t.Errorf("a request failed: %v", err)
	}
}

func askOnce(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// TestReload changes the configuration file of a node that runs.
func TestReload(t *testing.T) {
	s, _ := newSupervisor(t)
	file := filepath.Join(s.dir, "c.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	limits := func() (int64, time.Duration) {
		t.Helper()
		st, err := statusOf(t.Context(), filepath.Join(s.dir, "d"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Upkeep.MaxSize, st.Upkeep.MaxAge
	}
	write("max-size = \"1GB\"\noffice = \"one\"\n")
	pid, stop := s.start("--config", file, "--max-age", "24h")
	s.wait("READY=1")
	hangUp := func() {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.wait("RELOADING=1")
		s.wait("READY=1")
	}
	for _, step := range []struct {
		name, text string
		size       int64
	}{
		{"as it was", "max-size = \"1GB\"\n", 1e9},
		{"another value; a flag outranks the file", "max-size = \"2GB\"\nmax-age = \"1h\"\noffice = \"two\"\n", 2e9},
		{"a fault changes nothing", "max-size = \"3GB\"\nmax-sise = \"4GB\"\n", 2e9},
		{"a value that cannot be meant changes nothing", "max-size = \"much\"\n", 2e9},
		{"without it the default", "", 0},
	} {
		write(step.text)
		hangUp()
		if size, age := limits(); size != step.size || age != 24*time.Hour {
			t.Errorf("%s: %d bytes, %v; want %d, 24h", step.name, size, age, step.size)
		}
	}
	stop()
}
