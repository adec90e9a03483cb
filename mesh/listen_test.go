package mesh

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

func TestCheckFree(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, tcpPort, _ := net.SplitHostPort(l.Addr().String())
	_, udpPort, _ := net.SplitHostPort(c.LocalAddr().String())
	for name, test := range map[string]struct {
		addr string
		used bool
	}{
		"tcp that is taken":          {"/ip4/127.0.0.1/tcp/" + tcpPort, true},
		"tcp taken on one interface": {"/ip4/0.0.0.0/tcp/" + tcpPort, true},
		"quic that is taken":         {"/ip4/127.0.0.1/udp/" + udpPort + "/quic-v1", true},
		"any tcp port":               {"/ip4/127.0.0.1/tcp/0", false},
		"any udp port":               {"/ip4/127.0.0.1/udp/0/quic-v1", false},
		"an address of no machine":   {"/ip4/192.0.2.77/tcp/4911", false},
		"a name":                     {"/dns4/office.example.test/tcp/4911", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := checkFree([]string{"/ip4/127.0.0.1/tcp/0", test.addr}); errors.Is(err, syscall.EADDRINUSE) != test.used {
				t.Errorf("%s: %v", test.addr, err)
			}
		})
	}
	if err := checkFree([]string{"127.0.0.1:0"}); err == nil {
		t.Error("an address that is no multiaddr is good")
	}
}
