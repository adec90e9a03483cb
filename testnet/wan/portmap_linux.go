package wan

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// portMapper is a router's daemon that maps ports.
type portMapper struct {
	cmd *exec.Cmd
	dir string
}

// mapperRules are the tables that miniupnpd fills.
const mapperRules = `
table inet upnp {
	chain forward { type filter hook forward priority 0; policy accept; jump forwarded; }
	chain prerouting { type nat hook prerouting priority -100; policy accept; jump mapped; }
	chain postrouting { type nat hook postrouting priority 100; policy accept; jump translated; }
	chain forwarded { }
	chain mapped { }
	chain translated { }
}
`

const mapperConfig = `ext_ifname=` + tunName + `
listening_ip=` + innerName + `
enable_natpmp=yes
enable_upnp=yes
uuid=5a1ff0f8-6f0a-4f0e-9d2e-6d657368aaaa
system_uptime=yes
upnp_table_name=upnp
upnp_nat_table_name=upnp
upnp_forward_chain=forwarded
upnp_nat_chain=mapped
upnp_nat_postrouting_chain=translated
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
`

// mapPorts starts a miniupnpd in a gateway's namespace.
func (n *namespace) mapPorts() (*portMapper, error) {
	path, err := exec.LookPath("miniupnpd")
	if err != nil {
		return nil, fmt.Errorf("%w: a router that maps ports: %w", ErrUnavailable, err)
	}
	if err := n.run(mapperRules, "nft", "-f", "-"); err != nil {
		return nil, err
	}
	p := &portMapper{}
	if p.dir, err = os.MkdirTemp("", "miniupnpd-"); err != nil {
		return nil, err
	}
	config := filepath.Join(p.dir, "conf")
	if err := os.WriteFile(config, []byte(mapperConfig), 0o600); err != nil {
		return nil, errors.Join(err, p.close())
	}
	p.cmd = exec.Command(path, "-d", "-f", config, "-P", filepath.Join(p.dir, "pid"))
	if err := n.enter(p.cmd.Start); err != nil {
		p.cmd = nil
		return nil, errors.Join(fmt.Errorf("start miniupnpd: %w", err), p.close())
	}
	return p, nil
}

func (p *portMapper) close() error {
	if p.cmd != nil {
		p.cmd.Process.Kill() // an error means that it is gone already
		p.cmd.Wait()         // it was killed
	}
	return os.RemoveAll(p.dir)
}
