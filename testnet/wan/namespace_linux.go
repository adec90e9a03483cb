package wan

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	tunPath    = "/dev/net/tun"
	tunName    = "wan0"
	innerName  = "lan0"
	maxPackets = 10000 // that wait in the kernel for the router, which is never that far behind
)

// available says why there can be no network here.
func available() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: only root makes network namespaces", ErrUnavailable)
	}
	if _, err := os.Stat(tunPath); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	ns, err := newNamespace()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return ns.close()
}

// namespace is a network namespace that exists as long as this handle is open or
// a process is in it.
type namespace struct{ file *os.File }

// thisNamespace is that of the calling thread.
const thisNamespace = "/proc/thread-self/ns/net"

func newNamespace() (*namespace, error) {
	var ns *namespace
	err := elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		f, err := os.Open(thisNamespace)
		ns = &namespace{f}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return ns, nil
}

// enter runs f in the namespace. Sockets that f makes and processes that it
// starts stay there; goroutines that it starts are not there.
func (n *namespace) enter(f func() error) error {
	return elsewhere(func() error { return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET) }, f)
}

// elsewhere runs f on a thread that leave has taken to another namespace, and
// brings the thread back.
func elsewhere(leave, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(thisNamespace)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := leave(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that it ends with its goroutine and nobody
		// else finds himself in another namespace.
		return errors.Join(err, fmt.Errorf("return to the network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

func (n *namespace) close() error { return n.file.Close() }

// build makes the site's namespaces, its device and, if there is one, its NAT.
func (s *Site) build(setup Setup) error {
	nat := setup.NAT
	var err error
	if s.inner, err = newNamespace(); err != nil {
		return err
	}
	s.gateway = s.inner
	if nat != NoNAT {
		if s.gateway, err = newNamespace(); err != nil {
			return err
		}
	}
	if s.tun, err = s.gateway.openTUN(tunName); err != nil {
		return err
	}
	lines := []string{"link set lo up", fmt.Sprintf("link set %s mtu %d txqueuelen %d up", tunName, mtu, maxPackets)}
	for _, a := range []netip.Addr{s.addr4, s.addr6} {
		if a.Is4() {
			lines = append(lines, fmt.Sprintf("addr add %s/32 dev %s", a, tunName), "route add default dev "+tunName)
		} else if a.Is6() {
			lines = append(lines, fmt.Sprintf("addr add %s/128 dev %s nodad", a, tunName), "-6 route add default dev "+tunName)
		}
	}
	if err := s.gateway.ip(lines...); err != nil || nat == NoNAT {
		return err
	}
	if err := s.buildNAT(nat); err != nil || !setup.PortMap {
		return err
	}
	s.mapper, err = s.gateway.mapPorts()
	return err
}

// openTUN makes a TUN device, which lasts as long as the file is open.
func (n *namespace) openTUN(name string) (*os.File, error) {
	var f *os.File
	err := n.enter(func() error {
		fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), tunPath)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make a TUN device: %w", err)
	}
	return f, nil
}

// ip runs lines of the ip command in the namespace.
func (n *namespace) ip(lines ...string) error {
	for _, line := range lines {
		if err := n.run("", "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

func (n *namespace) run(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
	if err := n.enter(cmd.Start); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out.Bytes())
	}
	return nil
}

// What a NAT does: outgoing conversations get the gateway's address, and nothing
// comes in that does not belong to one, or to a port that was mapped.
const natRules = `
table ip nat {
	chain out {
		type nat hook postrouting priority 100; policy accept;
		oifname "` + tunName + `" masquerade %s
	}
}
table ip filter {
	chain through {
		type filter hook forward priority 0; policy accept;
		iifname "` + tunName + `" ct state established,related accept
		ct status dnat accept
		iifname "` + tunName + `" drop
	}
	chain here {
		type filter hook input priority 0; policy accept;
		iifname "` + tunName + `" ct state established,related accept
		iifname "` + tunName + `" drop
	}
}
`

// buildNAT connects the inner namespace with the gateway, which translates.
func (s *Site) buildNAT(nat NAT) error {
	if _, err := exec.LookPath("nft"); err != nil {
		return fmt.Errorf("%w: NAT: %w", ErrUnavailable, err)
	}
	ports := ""
	if nat == HardNAT {
		ports = "fully-random"
	}
	err := errors.Join(
		s.gateway.ip(fmt.Sprintf("link add %s type veth peer name %s netns /proc/%d/fd/%d",
			innerName, innerName, os.Getpid(), s.inner.file.Fd())),
		s.gateway.ip("addr add 192.168.1.1/24 dev "+innerName, "link set "+innerName+" up"),
		s.inner.ip("link set lo up", "addr add 192.168.1.2/24 dev "+innerName, "link set "+innerName+" up",
			"route add default via 192.168.1.1"),
		s.gateway.enter(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }),
	)
	if err != nil {
		return err
	}
	return s.gateway.run(fmt.Sprintf(natRules, ports), "nft", "-f", "-")
}
